//! Tests of batches and their replies, in both codecs.

use serde_json::{Value, json};

use super::*;
use crate::message::{Call, CallKind, FunctionMeta, encode_error};

const BOTH: [Format; 2] = [Format::Json, Format::MessagePack];

fn batch(format: Format, id: u64, rows: usize) -> Vec<u8> {
    let meta = EncodedMeta::from(&FunctionMeta { rule_id: "r".into(), ..FunctionMeta::default() });
    let mut writer = BatchWriter::new(format, Vec::new(), id, &meta);
    for row in 0..rows {
        writer.row(&(row, format!("row {row}"))).unwrap();
    }
    assert_eq!((writer.rows() as usize, writer.row(&(f64::NAN,)).is_err()), (rows, true), "it is left out");
    writer.finish()
}

#[test]
fn rows_survive() {
    for format in BOTH {
        for count in [0, 1, 3, 20] {
            let bytes = batch(format, 7, count);
            let call = Call::decode(format, &bytes).unwrap();
            assert_eq!((call.kind, call.id, call.meta().unwrap().rule_id.as_str()), (CallKind::Batch, 7, "r"));
            let mut rows = Rows::new(&call.args).unwrap();
            for row in 0..count {
                let mut args = rows.next_row().unwrap().unwrap();
                if row % 2 == 0 {
                    assert_eq!(args.read::<usize>().unwrap(), Some(row));
                    assert_eq!(args.read::<String>().unwrap(), Some(format!("row {row}")));
                    assert!(args.is_over());
                } else {
                    assert_eq!(args.all().unwrap().len(), 2);
                }
                rows.go_on(args).unwrap();
            }
            assert!(rows.next_row().unwrap().is_none());
        }
    }
}

#[test]
fn a_renumbered_batch_is_the_same_but_for_its_number() {
    let meta = EncodedMeta::from(&FunctionMeta { rule_id: "r".into(), ..FunctionMeta::default() });
    for format in BOTH {
        let mut writer = BatchWriter::new(format, Vec::new(), 7, &meta);
        let mut ends = Vec::new();
        for row in 0..4 {
            writer.row(&(row, format!("row {row}"))).unwrap();
            ends.push(writer.length());
        }
        let message = writer.lend();
        writer.take_back(message);
        writer.renumber(1 << 40, &meta, &mut ends);
        assert_eq!(*ends.last().unwrap(), writer.length());
        let whole = writer.lend();
        assert_eq!(whole, batch(format, 1 << 40, 4));
        writer.take_back(whole);
        writer.retain(&mut ends, |row| row != 1);
        let message = writer.finish();
        let call = Call::decode(format, &message).unwrap();
        assert_eq!(call.id, 1 << 40);
        let mut rows = Rows::new(&call.args).unwrap();
        for kept in [0, 2, 3] {
            let args = rows.next_row().unwrap().unwrap();
            assert_eq!(args.all().unwrap()[0].read::<u32>().unwrap(), kept);
            rows.go_on(args).unwrap();
        }
        assert!(rows.next_row().unwrap().is_none());
    }
}

#[test]
fn results_and_errors_come_back_in_their_places() {
    for format in BOTH {
        for failing in [vec![], vec![0], vec![1, 2], vec![0, 1, 2, 3], vec![3]] {
            let mut buffer = Vec::new();
            let mut reply = BatchReply::new(format, &mut buffer, 9);
            for row in 0..4 {
                if failing.contains(&row) {
                    assert!(reply.result(&f64::NAN).is_err());
                    reply.error(format!("no {row}"));
                } else {
                    reply.result(&row).unwrap();
                }
            }
            reply.finish();
            let outcomes = decode_batch_reply::<i32>(format, &buffer, 9, 4).unwrap().unwrap();
            let expected: Vec<_> =
                (0..4).map(|row| if failing.contains(&row) { Err(format!("no {row}")) } else { Ok(row) }).collect();
            assert_eq!(outcomes, expected);
            assert!(decode_batch_reply::<i32>(format, &buffer, 8, 4).is_err(), "another batch's");
            assert!(decode_batch_reply::<i32>(format, &buffer, 9, 3).is_err(), "too many");
            assert!(decode_batch_reply::<i32>(format, &buffer, 9, 5).is_err(), "too few");
            for end in 0..buffer.len() {
                assert!(decode_batch_reply::<Value>(format, &buffer[..end], 9, 4).is_err(), "cut off at {end}");
            }
        }
    }
}

#[test]
fn a_batch_that_fails_as_a_whole_says_why() {
    for format in BOTH {
        let mut buffer = Vec::new();
        encode_error(format, &mut buffer, "cannot be read");
        assert_eq!(decode_batch_reply::<Value>(format, &buffer, 1, 2).unwrap(), Err("cannot be read".into()));
        buffer.clear();
        crate::message::encode_result(format, &mut buffer, &json!([1, 2])).unwrap();
        assert!(decode_batch_reply::<Value>(format, &buffer, 1, 2).is_err());
    }
}

#[test]
fn errors_out_of_order_are_refused() {
    for errors in [json!([[2, "x"]]), json!([[1, "x"], [0, "y"]]), json!([[0, "x"], [0, "y"]])] {
        let rows = 1 + errors.as_array().unwrap().len() as u32;
        let bytes = format!(r#"{{"id":1,"result":[7],"errors":{errors}}}"#);
        let decoded = decode_batch_reply::<Value>(Format::Json, bytes.as_bytes(), 1, rows);
        assert!(decoded.is_err(), "{errors}: {decoded:?}");
    }
}

#[test]
fn what_is_left_of_a_batch_is_as_if_the_rest_had_never_been_there() {
    let meta = EncodedMeta::from(&FunctionMeta::default());
    for format in BOTH {
        for kept in 0..1 << 4 {
            let is_kept = |row: usize| kept & 1 << row != 0;
            let mut all = BatchWriter::new(format, Vec::new(), 7, &meta);
            let mut some = BatchWriter::new(format, Vec::new(), 7, &meta);
            let mut ends = Vec::new();
            for row in 0..4 {
                all.row(&("x".repeat(row * 20), row)).unwrap();
                ends.push(all.length());
                if is_kept(row) {
                    some.row(&("x".repeat(row * 20), row)).unwrap();
                }
            }
            // In two steps, between which it was lent.
            all.retain(&mut ends, |row| is_kept(row) || row % 2 == 1);
            let message = all.lend();
            all.take_back(message);
            all.retain(&mut ends, is_kept);
            assert_eq!((all.rows(), all.length()), (some.rows(), some.length()));
            for batch in [&mut all, &mut some] {
                batch.row(&("more",)).unwrap();
            }
            assert_eq!(all.finish(), some.finish(), "{format:?} {kept:04b}");
        }
    }
}
