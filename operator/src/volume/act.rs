//! Each mutation as the one command of the RouterOS client that does it, guarded by slot, file and token (I10, D1).

use crate::routeros::{Adopt, Client, CreateDisk, Generation, Guard, OwnerTag, RdsError};

use super::appliance_view::{ApplianceView, Place};
use super::model::{Fact, Ledger, Mutation};
use super::want::Want;

/// Does it; returns what was read back, if that says all about the volume.
pub(crate) async fn perform(
    mutation: Mutation,
    client: &Client,
    want: &Want,
    ledger: &Ledger,
    view: &Fact<ApplianceView>,
) -> Result<Option<ApplianceView>, RdsError> {
    let generation = ledger.generation.unwrap_or(Generation(1));
    // `decide` acts only on a recorded creation; without one the guard matches nothing, as no disk carries such a nonce.
    let nonce = ledger
        .creation
        .as_ref()
        .map_or_else(crate::routeros::Nonce::random, |c| c.nonce.clone());
    let tag = want.tag(generation, &nonce);
    let guard = |tag: OwnerTag| Guard {
        slot: want.id.slot.clone(),
        path: want.id.path.clone(),
        tag,
    };
    let as_seen = || match view {
        Fact::Known(view) => match view.place(want) {
            Place::Ours(_, seen) => Some(tag.at(seen.generation)),
            Place::Free | Place::FileOnly | Place::Taken(_) => None,
        },
        Fact::NotRead | Fact::Unknown(_) => None,
    };
    // Retire and toggle: the record is one generation ahead of the appliance; after a crash the appliance says which it has.
    let from = || as_seen().unwrap_or_else(|| tag.at(Generation(generation.0.saturating_sub(1))));
    let one = |row| Ok(Some(ApplianceView::of_row(row)));
    match mutation {
        Mutation::Create => {
            let request = CreateDisk {
                slot: want.id.slot.clone(),
                path: want.id.path.clone(),
                size: want.size,
                nqn: want.id.nqn.clone(),
                port: want.port,
                tag: tag.clone(),
            };
            one(client.create(&request).await?)
        }
        Mutation::Adopt => {
            let request = Adopt {
                id: want.id.clone(),
                size: want.size,
                port: want.port,
                tag: tag.clone(),
            };
            one(client.adopt(&request).await?)
        }
        Mutation::Grow => one(client.grow(&guard(tag.clone()), want.size).await?),
        Mutation::Toggle => one(client
            .toggle_export(&guard(from()), generation, &want.id.nqn, want.port)
            .await?),
        Mutation::Export => one(client.export(&guard(tag.clone()), &want.id.nqn, want.port).await?),
        Mutation::Retire => {
            client.retire(&guard(from()), generation).await?;
            Ok(None)
        }
        Mutation::Remove => client.remove(&guard(tag.clone())).await.map(|_| None),
        Mutation::RemoveFile => client.remove_file(&want.id.slot, &want.id.path).await.map(|_| None),
        Mutation::Release => client
            .release(&guard(as_seen().unwrap_or_else(|| tag.clone())))
            .await
            .map(|_| None),
    }
}
