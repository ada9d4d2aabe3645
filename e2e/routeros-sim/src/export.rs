//! Switching an NVMe/TCP export, and who may have which NQN.

use crate::disk::Disk;
use crate::error::{Fail, Run};
use crate::interp::Interp;
use crate::knobs::{NamespaceUuid, Policy, Resize};
use crate::schema::Version;
use crate::view::DiskView;

fn random_uuid() -> String {
    let b: [u8; 16] = rand::random();
    let hex: String = b.iter().map(|b| format!("{b:02x}")).collect();
    format!(
        "{}-{}-4{}-8{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..]
    )
}

impl Interp<'_> {
    pub(crate) fn switch_export(&mut self, disk: &mut Disk, on: bool) -> Run<()> {
        let was_on = disk.export.on;
        if on {
            self.check_nqn(disk)?;
        }
        if on && !disk.export.on {
            disk.export.times += 1;
            let keep = disk.export.namespace_uuid.clone();
            disk.export.namespace_uuid = match self.knobs.namespace_uuid {
                NamespaceUuid::Stable => Some(keep.unwrap_or_else(random_uuid)),
                NamespaceUuid::Random => Some(random_uuid()),
                NamespaceUuid::Absent => None,
            };
        }
        disk.export.on = on;
        // A toggle is the moment at which the size behind the export is read again.
        if let Some(image) = &disk.image
            && (!on || !was_on || self.knobs.resize == Resize::Live)
        {
            disk.size = image.size;
            disk.export.visible_size = image.size;
        }
        Ok(())
    }

    pub(crate) fn check_nqn(&mut self, disk: &Disk) -> Run<()> {
        if self.knobs.duplicate_nqn == Policy::Accept || self.knobs.version < Version(7, 21, 0) {
            return Ok(());
        }
        let knobs = self.knobs.clone();
        let view = DiskView {
            state: self.state(),
            knobs: &knobs,
        };
        let nqn = view.nqn(disk);
        if view.named(&nqn).any(|d| d.id != disk.id && d.export.on) {
            Err(Fail::refused(&knobs.duplicate_nqn_text))
        } else {
            Ok(())
        }
    }
}
