//! One call in flight: the guard that lets only one call a volume through.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::failure::{Failure, shown};

/// The volumes with a call under way in this process. Only an optimisation: safety comes from names and compare-and-swap.
#[derive(Clone, Default)]
pub struct InFlight(Arc<Mutex<BTreeSet<String>>>);

/// A place taken; given back on drop.
pub struct Guard {
    all: InFlight,
    name: String,
}

impl InFlight {
    /// Takes the place of that volume, or says that somebody has it.
    pub fn enter(&self, name: &str) -> Result<Guard, Failure> {
        if self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned())
        {
            return Ok(Guard {
                all: self.clone(),
                name: name.to_owned(),
            });
        }
        Err(Failure::Busy(format!(
            "another call for volume {} is under way: wait for it, then call again",
            shown(name)
        )))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.all
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_call_a_volume() {
        let all = InFlight::default();
        let first = all.enter("a").unwrap();
        assert!(matches!(all.enter("a"), Err(Failure::Busy(_))));
        assert!(all.enter("b").is_ok());
        drop(first);
        assert!(all.enter("a").is_ok());
    }
}
