//! Sources and sinks of a real plugin as tables.

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::Mirror;
use futures::StreamExt;

/// Five rows at once, and no more.
const FIVE: &str = "STORED AS PLUGIN LOCATION 'random' OPTIONS ('count' '5', 'interval' '0', 'endless' 'false')";

#[tokio::test(flavor = "multi_thread")]
async fn a_source_is_a_table_of_its_name() {
    let mirror = Mirror::new();
    let rows = mirror.sql("SELECT revert(name) = name AS same, count FROM random LIMIT 3").await.unwrap();
    assert_eq!(rows.matches("| false |").count(), 3, "{rows}");
    let error = mirror.error("SELECT * FROM nothing").await;
    assert!(error.contains("nothing"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_external_table_has_its_columns_and_options() {
    let mirror = Mirror::new();
    mirror.sql(&format!("CREATE EXTERNAL TABLE declared (count INT, extra VARCHAR) {FIVE}")).await.unwrap();
    let rows = mirror.sql("SELECT sum(count) AS s, count(extra) AS n FROM declared").await.unwrap();
    assert!(rows.contains("| 15 | 0 |"), "{rows}");
    mirror.sql(&format!("CREATE EXTERNAL TABLE learnt {FIVE}")).await.unwrap();
    let rows = mirror.sql("DESCRIBE learnt").await.unwrap();
    for column in ["| count       | Int64     |", "| name        | Utf8      |", "| value       | Int64     |"] {
        assert!(rows.contains(column), "{rows}");
    }
    let rows =
        mirror.sql("SELECT table_name FROM information_schema.tables WHERE table_name = 'learnt'").await.unwrap();
    assert!(rows.contains("| learnt     |"), "{rows}");
    let plan = mirror.sql("EXPLAIN SELECT name FROM random LIMIT 2").await.unwrap();
    assert!(plan.contains("projection=[name], fetch=2"), "{plan}");
    let plan = mirror.sql("EXPLAIN SELECT name FROM random").await.unwrap();
    assert!(plan.contains("projection=[name], infinite_source=true"), "{plan}");
    let rows = mirror.sql("SELECT sum(count) AS s FROM (SELECT * FROM random LIMIT 4)").await.unwrap();
    assert!(rows.contains("| 10 |"), "{rows}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_is_joined_with_a_csv_file() {
    let mirror = Mirror::new();
    let path = mirror.path("labels.csv");
    fs::write(&path, "id,label\n2,two\n4,four\n9,nine\n").unwrap();
    mirror.sql(&format!("CREATE EXTERNAL TABLE numbers {FIVE}")).await.unwrap();
    mirror.sql(&format!("CREATE EXTERNAL TABLE labels STORED AS CSV LOCATION '{path}'")).await.unwrap();
    let rows = mirror.sql("SELECT label FROM numbers JOIN labels ON count = id ORDER BY id").await.unwrap();
    assert_eq!(rows, "+-------+\n| label |\n+-------+\n| two   |\n| four  |\n+-------+");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_inserted_with_acks() {
    let mirror = Mirror::new();
    let path = mirror.path("rows.jsonl");
    let sink = |options: &str| {
        format!(
            "CREATE EXTERNAL TABLE lines (n BIGINT, name VARCHAR) STORED AS PLUGIN LOCATION 'file' OPTIONS ({options})"
        )
    };
    mirror.sql(&sink(&format!("'path' '{path}', 'acks' 'true', 'rows_per_message' '1'"))).await.unwrap();
    let rows = mirror.sql("INSERT INTO lines VALUES (1, 'a'), (2, NULL)").await.unwrap();
    assert!(rows.contains("| 2     |"), "{rows}");
    let lines = fs::read_to_string(&path).unwrap();
    assert_eq!(lines, "{\"n\":1,\"name\":\"a\"}\n{\"n\":2,\"name\":null}\n");
    let totals = mirror.host.status("mirror").unwrap().totals;
    let sent = totals.iter().find(|symbol| symbol.name == "file").unwrap().rows_out;
    assert_eq!(sent, 2, "each row is a message");
    // Each write to this file fails: with acks, the query knows.
    for (name, acks) in [("full", "true"), ("unacknowledged", "false")] {
        let options = format!("'path' '/dev/full', 'acks' '{acks}'");
        mirror.sql(&sink(&options).replace("lines", name)).await.unwrap();
    }
    let error = mirror.error("INSERT INTO full VALUES (1, 'a')").await;
    assert!(error.contains("No space left on device"), "{error}");
    assert!(mirror.sql("INSERT INTO unacknowledged VALUES (1, 'a')").await.is_ok());
    let error = mirror.error("SELECT * FROM lines").await;
    assert!(error.contains("file is a sink: it is written to with INSERT INTO"), "{error}");
    mirror.sql("DROP TABLE lines").await.unwrap();
    mirror.sql(&sink("'path' '/no/such/folder/x'")).await.unwrap();
    let error = mirror.error("INSERT INTO lines VALUES (1, 'a')").await;
    assert!(error.contains("/no/such/folder/x"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_queries_read_one_source_at_once() {
    let mirror = Mirror::new();
    let query = "SELECT count FROM random LIMIT 5";
    let (one, other) = tokio::join!(mirror.sql(query), mirror.sql(query));
    assert_eq!(one.unwrap(), other.unwrap());
    let join = "SELECT a.count FROM random a JOIN random b ON a.count = b.count LIMIT 2";
    assert_eq!(mirror.sql(join).await.unwrap().matches("| 1 ").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_stream_stops_its_source() {
    let mirror = Mirror::new();
    // After its first row, the source itself does nothing for an hour.
    let hourly =
        "CREATE EXTERNAL TABLE hourly (count INT) STORED AS PLUGIN LOCATION 'random' OPTIONS ('interval' '3600000')";
    mirror.sql(hourly).await.unwrap();
    let mut rows = mirror.ctx.sql("SELECT * FROM hourly").await.unwrap().execute_stream().await.unwrap();
    assert!(rows.next().await.unwrap().unwrap().num_rows() > 0);
    assert_eq!(mirror.open_sources(), 1);
    drop(rows);
    let dropped = Instant::now();
    while mirror.open_sources() > 0 {
        assert!(dropped.elapsed() < Duration::from_secs(30), "the source is still open");
        tokio::task::yield_now().await;
    }
    println!("stopped after {:?}", dropped.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_table_is_refused_in_words() {
    let mirror = Mirror::new();
    for (statement, expected) in [
        ("CREATE EXTERNAL TABLE t STORED AS PLUGIN LOCATION 'nothing'", "no plugin has a source or sink nothing"),
        ("CREATE EXTERNAL TABLE t STORED AS PLUGIN LOCATION 'file'", "the sink file needs columns"),
        (
            "CREATE EXTERNAL TABLE t STORED AS PLUGIN LOCATION 'random' OPTIONS ('endless' 'maybe')",
            "the option endless is \"maybe\", and must be true or false",
        ),
        (
            "CREATE EXTERNAL TABLE t STORED AS PLUGIN LOCATION 'random' OPTIONS ('count' '0', 'endless' 'false')",
            "the source random has ended without a row",
        ),
        ("INSERT INTO random VALUES (1, 'a', 2)", "random is a source: it is read with SELECT"),
    ] {
        let error = mirror.error(statement).await;
        assert!(error.contains(expected), "{statement}: {error}");
    }
}
