//! Functions and aggregates of a real plugin in queries.

mod common;

use common::Mirror;
use ekuiper_datafusion::{Declaration, OnRefusal};

const NAMES: &str = "(VALUES ('ab', 1), (NULL, 2), ('cd', 3)) AS t (name, n)";

#[tokio::test(flavor = "multi_thread")]
async fn a_described_function_computes_and_null_stays_null() {
    let mirror = Mirror::new();
    let rows = mirror.sql(&format!("SELECT n, revert(name) AS r FROM {NAMES} WHERE n < 4 ORDER BY n")).await.unwrap();
    assert_eq!(rows, "+---+----+\n| n | r  |\n+---+----+\n| 1 | ba |\n| 2 |    |\n| 3 | dc |\n+---+----+");
    let rows = mirror.sql(&format!("SELECT n FROM {NAMES} WHERE exceeds(n, 2)")).await.unwrap();
    assert_eq!(rows, "+---+\n| n |\n+---+\n| 3 |\n+---+");
    let error = mirror.error("SELECT revert(1)").await;
    assert!(error.contains("argument 1 (text) of the function revert is Utf8, and cannot be Int64"), "{error}");
    let error = mirror.error("SELECT revert('a', 'b')").await;
    assert!(error.contains("the function revert takes 1 argument, not 2"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_without_a_result_type_is_declared_or_refused() {
    let mirror = Mirror::new();
    let error = mirror.error("SELECT echo('x')").await;
    assert!(error.contains("the type of the function echo is unknown, as its result is any: declare it"), "{error}");
    let mirror = Mirror::with(|catalog| catalog.declare(Declaration::parse("echo(int) int").unwrap()));
    assert!(mirror.sql("SELECT echo(n) * 2 AS x FROM (VALUES (21)) AS t (n)").await.unwrap().contains("| 42 |"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_function_computes() {
    let mirror = Mirror::with(|catalog| catalog.slow("revert"));
    let rows = mirror.sql(&format!("SELECT revert(name) AS r FROM {NAMES}")).await.unwrap();
    assert_eq!(rows, "+----+\n| r  |\n+----+\n| ba |\n|    |\n| dc |\n+----+");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_row_fails_the_query_or_is_null() {
    // The declaration lets the plugin see the NULL, which it refuses.
    let declared = || Declaration::parse("revert(string?) string").unwrap();
    let query = format!("SELECT revert(name) AS r FROM {NAMES}");
    let error = Mirror::with(|catalog| catalog.declare(declared())).error(&query).await;
    assert!(error.contains("revert") && error.contains("row 1"), "{error}");
    let mirror = Mirror::with(|catalog| catalog.declare(declared()).on_refusal(OnRefusal::Null));
    let rows = mirror.sql(&query).await.unwrap();
    assert_eq!(rows, "+----+\n| r  |\n+----+\n| ba |\n|    |\n| dc |\n+----+");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aggregate_is_called_for_each_group() {
    let mirror = Mirror::new();
    let values = "(VALUES ('a', 1), ('b', 10), ('a', 2), ('b', 20)) AS t (name, n)";
    let query = format!("SELECT name, average(n) AS mean FROM {values} GROUP BY name ORDER BY name");
    let rows = mirror.sql(&query).await.unwrap();
    let expected =
        "+------+------+\n| name | mean |\n+------+------+\n| a    | 1.5  |\n| b    | 15.0 |\n+------+------+";
    assert_eq!(rows, expected);
    // Over partitions: the groups' values are merged.
    mirror.sql("SET datafusion.execution.target_partitions = 4").await.unwrap();
    mirror.sql("SET datafusion.execution.batch_size = 1").await.unwrap();
    assert_eq!(mirror.sql(&query).await.unwrap(), expected);
}
