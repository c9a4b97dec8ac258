use bytes::Bytes;
use tempfile::TempDir;

use super::sim::SimEngine;
use super::{Engine, KeyRange, KeyValue, Read, Table, WriteBatch};
use crate::testing::Kind;

#[test]
fn rows_come_in_key_order_within_their_bounds() {
    on_both(|engine| {
        write(engine, &[b"a", b"b", b"c", b"d"]);
        assert_eq!(keys(engine, KeyRange::all()), ["a", "b", "c", "d"]);
        assert_eq!(keys(engine, range(b"b", Some(b"d"))), ["b", "c"]);
        assert_eq!(keys(engine, range(b"bb", None)), ["c", "d"]);
        assert_eq!(keys(engine, range(b"c", Some(b"c"))), [""; 0]);
        assert_eq!(keys(engine, range(b"e", None)), [""; 0]);
        assert_eq!(engine.rows(Table::Dedup, KeyRange::all()).count(), 0);
        let last = |range| {
            engine
                .last(Table::State, range)
                .unwrap()
                .map(|row| text(&row))
        };
        assert_eq!(last(KeyRange::all()).as_deref(), Some("d"));
        assert_eq!(last(range(b"a", Some(b"c"))).as_deref(), Some("b"));
        assert_eq!(last(range(b"x", None)), None);
    });
}

#[test]
fn a_batch_takes_effect_in_its_order() {
    on_both(|engine| {
        write(engine, &[b"a", b"b", b"c", b"d"]);
        let mut batch = WriteBatch::new();
        batch.delete_range(Table::State, Bytes::new(), Bytes::from_static(b"c"));
        batch.put(
            Table::State,
            Bytes::from_static(b"b"),
            Bytes::from_static(b"again"),
        );
        batch.delete(Table::State, Bytes::from_static(b"d"));
        batch.delete(Table::State, Bytes::from_static(b"absent"));
        assert_eq!(batch.bytes(), 1 + 5 + 1 + 6);
        engine.write(batch).unwrap();
        assert_eq!(keys(engine, KeyRange::all()), ["b", "c"]);
        let value = engine.value(Table::State, b"b").unwrap();
        assert_eq!(value.as_deref(), Some(b"again".as_slice()));
        assert_eq!(engine.value(Table::State, b"d").unwrap(), None);
        assert_eq!(engine.value(Table::Cluster, b"b").unwrap(), None);
    });
}

#[test]
fn a_view_and_an_iterator_see_the_moment_they_were_made() {
    on_both(|engine| {
        write(engine, &[b"a", b"b"]);
        let view = engine.view();
        let rows = engine.rows(Table::State, KeyRange::all());
        write(engine, &[b"c"]);
        let mut batch = WriteBatch::new();
        batch.delete(Table::State, Bytes::from_static(b"a"));
        engine.write(batch).unwrap();
        assert_eq!(rows.count(), 2);
        assert_eq!(view.rows(Table::State, KeyRange::all()).count(), 2);
        assert!(view.value(Table::State, b"a").unwrap().is_some());
        let last = view.last(Table::State, KeyRange::all()).unwrap();
        assert_eq!(last.map(|row| text(&row)).as_deref(), Some("b"));
        assert_eq!(keys(engine, KeyRange::all()), ["b", "c"]);
    });
}

#[test]
fn a_crash_keeps_a_prefix_of_the_unsynced_batches() {
    let engine = SimEngine::default();
    write(&engine, &[b"a"]);
    engine.sync().unwrap();
    for key in [b"b", b"c", b"d"] {
        write(&engine, &[key]);
    }
    assert_eq!(engine.unsynced(), 3);
    assert_eq!(keys(&engine.crash(0), KeyRange::all()), ["a"]);
    assert_eq!(keys(&engine.crash(2), KeyRange::all()), ["a", "b", "c"]);
    assert_eq!(
        keys(&engine.crash(9), KeyRange::all()),
        ["a", "b", "c", "d"]
    );
}

#[test]
fn what_was_closed_is_there_again() {
    let dir = TempDir::new().unwrap();
    let engine = Kind::Rocks.open(dir.path());
    write(&*engine, &[b"a", b"b"]);
    engine.close().unwrap();
    drop(engine);
    let engine = Kind::Rocks.open(dir.path());
    assert_eq!(keys(&*engine, KeyRange::all()), ["a", "b"]);
}

fn on_both(test: impl Fn(&dyn Engine)) {
    for kind in Kind::BOTH {
        let dir = TempDir::new().unwrap();
        test(&*kind.open(dir.path()));
    }
}

fn write(engine: &dyn Engine, keys: &[&[u8]]) {
    let mut batch = WriteBatch::new();
    for key in keys {
        batch.put(Table::State, key.to_vec(), Bytes::from_static(b"value"));
    }
    engine.write(batch).unwrap();
}

fn range(lower: &[u8], upper: Option<&[u8]>) -> KeyRange {
    KeyRange {
        lower: lower.to_vec(),
        upper: upper.map(<[u8]>::to_vec),
    }
}

fn keys(engine: &(impl Read + ?Sized), range: KeyRange) -> Vec<String> {
    engine
        .rows(Table::State, range)
        .map(|row| text(&row.unwrap()))
        .collect()
}

fn text((key, _): &KeyValue) -> String {
    String::from_utf8(key.to_vec()).unwrap()
}
