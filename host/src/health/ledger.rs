//! The symbols of a plugin that are counted, and the counts of those that were
//! closed.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::ops::Deref;
use std::sync::{Arc, Mutex, Weak};

use ekuiper_core::message::SymbolKind;

use super::vitals::{Place, Vitals};
use super::{SymbolHealth, SymbolTotals};
use crate::status::Traffic;
use crate::sync::lock;

/// The counted symbols of a plugin. Its lock is taken when a symbol is opened
/// or closed, and by snapshots.
#[derive(Default)]
pub(crate) struct Ledger(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    open: Vec<Entry>,
    /// Counts of those that were closed.
    closed: Traffic,
    /// The same of each symbol, by kind and name.
    totals: BTreeMap<(u8, String), SymbolTotals>,
}

struct Entry {
    vitals: Arc<Vitals>,
    user: Weak<Counted>,
}

/// A symbol that is counted as long as this exists.
pub(crate) struct Counted {
    vitals: Arc<Vitals>,
    ledger: Arc<Ledger>,
}

impl Counted {
    /// Returns the counters, for what may outlive the symbol.
    pub(crate) fn vitals(&self) -> &Arc<Vitals> {
        &self.vitals
    }
}

impl Deref for Counted {
    type Target = Vitals;

    fn deref(&self) -> &Vitals {
        &self.vitals
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut entries = lock(&self.ledger.0);
        entries.open.retain(|entry| !Arc::ptr_eq(&entry.vitals, &self.vitals));
        entries.closed += self.vitals.traffic();
        add(&mut entries.totals, self.vitals.totals().closed());
    }
}

impl Ledger {
    /// Counts a function; those of the same place together.
    pub(crate) fn function(self: &Arc<Self>, place: Place, restarts: u64) -> Arc<Counted> {
        let mut entries = lock(&self.0);
        let same = entries.open.iter().find(|entry| *entry.vitals.place() == place && entry.user.strong_count() > 0);
        // The last user may drop it right now.
        if let Some(counted) = same.and_then(|entry| entry.user.upgrade()) {
            return counted;
        }
        self.enter(&mut entries, Vitals::of_function(place, restarts))
    }

    /// Counts a source.
    pub(crate) fn source(self: &Arc<Self>, place: Place, restarts: u64) -> Arc<Counted> {
        self.enter(&mut lock(&self.0), Vitals::of_source(place, restarts))
    }

    /// Counts a sink, whose window of unacknowledged messages is given if it
    /// acknowledges.
    pub(crate) fn sink(self: &Arc<Self>, place: Place, restarts: u64, window: Option<u64>) -> Arc<Counted> {
        self.enter(&mut lock(&self.0), Vitals::of_sink(place, restarts, window))
    }

    fn enter(self: &Arc<Self>, entries: &mut Entries, vitals: Vitals) -> Arc<Counted> {
        let vitals = Arc::new(vitals);
        let counted = Arc::new(Counted { vitals: vitals.clone(), ledger: self.clone() });
        entries.open.push(Entry { vitals, user: Arc::downgrade(&counted) });
        counted
    }

    /// Returns the open symbols, functions first. Sources and sinks count the
    /// restarts of the plugin's first process, functions those of all.
    pub(crate) fn symbols(&self, restarts: u64, all_restarts: u64) -> Vec<SymbolHealth> {
        // Read without the lock, which openings and closings need.
        let open: Vec<_> = {
            let entries = lock(&self.0);
            let is_open = |entry: &&Entry| !entry.vitals.is_closed() && entry.user.strong_count() > 0;
            entries.open.iter().filter(is_open).map(|entry| entry.vitals.clone()).collect()
        };
        let restarts = |kind| if kind == SymbolKind::Function { all_restarts } else { restarts };
        let health = |vitals: &Arc<Vitals>| vitals.health(restarts(vitals.place().kind));
        let mut symbols: Vec<_> = open.iter().map(health).collect();
        symbols.sort_by_key(|symbol| symbol.kind != SymbolKind::Function);
        symbols
    }

    /// Returns the totals of each symbol, those that were closed included;
    /// functions first, then by name.
    pub(crate) fn totals(&self) -> Vec<SymbolTotals> {
        // Read without the lock: what closes meanwhile is not among the closed
        // ones of this moment.
        let (mut totals, open) = {
            let entries = lock(&self.0);
            let open: Vec<_> = entries.open.iter().map(|entry| entry.vitals.clone()).collect();
            (entries.totals.clone(), open)
        };
        for vitals in open {
            let is_closed = vitals.is_closed();
            let own = vitals.totals();
            add(&mut totals, if is_closed { own.closed() } else { own });
        }
        let mut totals: Vec<_> = totals.into_values().collect();
        totals.sort_by_key(|symbol| symbol.kind != SymbolKind::Function);
        totals
    }

    /// Returns the counts of all symbols, those that were closed included.
    pub(crate) fn traffic(&self) -> Traffic {
        let entries = lock(&self.0);
        let mut traffic = entries.closed;
        entries.open.iter().for_each(|entry| traffic += entry.vitals.traffic());
        traffic
    }
}

/// Adds a handle's counts to those of its symbol.
fn add(totals: &mut BTreeMap<(u8, String), SymbolTotals>, own: SymbolTotals) {
    match totals.entry((own.kind as u8, own.name.clone())) {
        btree_map::Entry::Vacant(entry) => drop(entry.insert(own)),
        btree_map::Entry::Occupied(mut entry) => entry.get_mut().add(&own),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Latency;
    use ekuiper_core::message::Meta;
    use std::time::Instant;

    fn place(name: &str, rule: &str) -> Place {
        let meta = Meta { rule_id: rule.into(), ..Meta::default() };
        Place { kind: SymbolKind::Function, name: name.into(), meta }
    }

    #[test]
    fn rules_are_told_apart_and_what_was_closed_stays_in_the_sum() {
        let ledger = Arc::new(Ledger::default());
        let one = ledger.function(place("f", "a"), 0);
        let same = ledger.function(place("f", "a"), 0);
        let other = ledger.function(place("f", "b"), 0);
        assert!(Arc::ptr_eq(&one, &same) && !Arc::ptr_eq(&one, &other));
        one.begin(1, Instant::now()).end(&Ok(()));
        same.begin(1, Instant::now()).end(&Ok(()));
        other.begin(5, Instant::now()).end(&Ok(()));
        let counts = || {
            let symbols = ledger.symbols(0, 0);
            symbols.into_iter().map(|symbol| (symbol.meta.rule_id, symbol.rows_in)).collect::<Vec<_>>()
        };
        assert_eq!(counts(), [("a".to_owned(), 2), ("b".to_owned(), 5)]);
        drop((one, same));
        assert_eq!(counts(), [("b".to_owned(), 5)]);
        other.close();
        assert_eq!(counts(), []);
        let totals = || {
            let totals = ledger.totals();
            let [f] = totals.as_slice() else { panic!("{totals:?}") };
            (f.open, f.rows_out, f.rows_in, f.latency.as_ref().map(Latency::count), f.queue)
        };
        assert_eq!((ledger.traffic().calls, ledger.traffic().answers), (7, 7));
        assert_eq!(totals(), (0, 7, 7, Some(7), Some(0)));
        drop(other);
        assert_eq!((ledger.traffic().calls, ledger.traffic().answers), (7, 7));
        assert_eq!(totals(), (0, 7, 7, Some(7), Some(0)));
        let again = ledger.function(place("f", "a"), 0);
        let waiting = again.begin(2, Instant::now());
        assert_eq!(totals(), (1, 9, 7, Some(7), Some(2)));
        drop(waiting);
    }
}
