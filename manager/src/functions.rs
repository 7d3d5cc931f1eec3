//! The functions that requests call, kept from one request to the next.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use ekuiper_core::sync::lock;
use ekuiper_host::{FunctionMeta, FunctionPool, Host};

/// Time without a request after which further processes of a function are
/// ended.
const IDLE: Duration = Duration::from_secs(60);

/// The rule of the calls, which plugins log and figures name.
const RULE: &str = "http";

/// Functions that were called, by name. A pool holds neither the plugin's first
/// process nor a socket: its plugin is stopped, updated and removed as if it
/// were not there.
#[derive(Default)]
pub(crate) struct Functions(Mutex<BTreeMap<String, Kept>>);

struct Kept {
    /// Used by as many requests as there are further references.
    pool: Arc<FunctionPool>,
    used: Instant,
}

impl Functions {
    /// Returns a function, after starting it and its plugin if that is
    /// necessary. It is in use until the reference is dropped.
    pub(crate) async fn get(self: &Arc<Self>, host: &Host, name: &str) -> ekuiper_host::Result<Arc<FunctionPool>> {
        if let Some(pool) = current(&mut lock(&self.0), host, name) {
            return Ok(pool);
        }
        let meta = FunctionMeta { rule_id: RULE.into(), op_id: name.into(), ..FunctionMeta::default() };
        let pool = Arc::new(host.function_pool(name).as_described().meta(meta).open_async().await?);
        let mut kept = lock(&self.0);
        // Another request may have come first: two pools would not know of each
        // other's calls.
        if let Some(first) = current(&mut kept, host, name) {
            return Ok(first);
        }
        // Under the lock, which `discard` takes after a plugin was removed.
        if host.is_current(&pool) {
            let own = Kept { pool: pool.clone(), used: Instant::now() };
            let former = kept.insert(name.to_owned(), own);
            if pool.size() > 1 {
                tokio::spawn(end_when_idle(Arc::downgrade(self), Arc::downgrade(&pool)));
            }
            drop(kept);
            drop(former);
        }
        Ok(pool)
    }

    /// Drops the functions of plugins that are no longer there, and those that
    /// are described differently now.
    pub(crate) fn discard(&self, host: &Host) {
        self.drop_all_but(|kept| host.is_current(&kept.pool));
    }

    /// Drops the functions that no request calls, if they are `unwanted`.
    pub(crate) fn release(&self, unwanted: impl Fn(&str) -> bool) {
        // Under the lock, without which no request gets a further reference.
        self.drop_all_but(|kept| Arc::strong_count(&kept.pool) > 1 || !unwanted(kept.pool.name()));
    }

    fn drop_all_but(&self, is_kept: impl Fn(&Kept) -> bool) {
        let mut kept = lock(&self.0);
        let names: Vec<_> = kept.iter().filter(|(_, own)| !is_kept(own)).map(|(name, _)| name.clone()).collect();
        let dropped: Vec<_> = names.iter().filter_map(|name| kept.remove(name)).collect();
        drop(kept);
        drop(dropped);
    }

    /// Returns when a pool that is kept may have been idle for long enough.
    fn idle_at(&self, pool: &Weak<FunctionPool>) -> Option<Instant> {
        let kept = lock(&self.0);
        let own = kept.values().find(|own| Weak::ptr_eq(&Arc::downgrade(&own.pool), pool))?;
        // Requests go on for any time.
        let used = if Arc::strong_count(&own.pool) > 1 { Instant::now() } else { own.used };
        Some(used + IDLE)
    }
}

/// Returns the pool that is kept, if it is the right one still.
fn current(kept: &mut BTreeMap<String, Kept>, host: &Host, name: &str) -> Option<Arc<FunctionPool>> {
    let own = kept.get_mut(name).filter(|own| host.is_current(&own.pool))?;
    own.used = Instant::now();
    Some(own.pool.clone())
}

/// Drops a pool, which ends its further processes, once it is idle.
async fn end_when_idle(functions: Weak<Functions>, pool: Weak<FunctionPool>) {
    loop {
        let Some(functions) = functions.upgrade() else { return };
        let Some(at) = functions.idle_at(&pool) else { return };
        if at <= Instant::now() {
            return functions.drop_all_but(|own| !Weak::ptr_eq(&Arc::downgrade(&own.pool), &pool));
        }
        drop(functions);
        tokio::time::sleep_until(at.into()).await;
    }
}
