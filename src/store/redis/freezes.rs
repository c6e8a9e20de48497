//! Freezes in Redis: a hash by id.

use std::collections::HashMap;
use std::sync::Arc;

use uuid::Uuid;

use super::super::{Change, StoreError};
use super::{Redis, scripts, wire};
use crate::firewall::freeze::Freeze;

impl Redis {
    pub(super) async fn load_freezes(&self) -> Result<Vec<Arc<Freeze>>, StoreError> {
        let mut freezes = HashMap::new();
        let mut cursor = 0;
        loop {
            let (next, page) = self.scan("HSCAN", "freezes", cursor).await?;
            for (_, text) in &page {
                let freeze: Freeze = wire::read("freeze", text)?;
                freezes.insert(freeze.id, Arc::new(freeze));
            }
            cursor = next;
            if cursor == 0 {
                return Ok(freezes.into_values().collect());
            }
        }
    }

    pub(super) async fn put_freeze(&self, freeze: &Arc<Freeze>) -> Result<(), StoreError> {
        let mut script = self.write(&scripts::FREEZE)?;
        script.arg(freeze.id).arg(wire::write("freeze", &**freeze)?);
        script.arg(wire::change(&Change::Frozen(Arc::clone(freeze)))?);
        self.run(&script).await
    }

    pub(super) async fn drop_freeze(&self, id: Uuid) -> Result<bool, StoreError> {
        let mut script = self.write(&scripts::UNFREEZE)?;
        self.run(script.arg(id).arg(wire::change(&Change::Unfrozen(id))?)).await
    }
}
