//! Intervals and tests against SciPy's numbers and Newcombe's formula (tests/golden/golden_stats.py).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use ftrepl::eval::statistics::*;
use rhai::{Array, Engine, Map};
use serde_json::Value;

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/stats.json")).unwrap()
}

fn count(row: &Value, name: &str) -> u64 {
    row[name].as_u64().unwrap()
}

fn close(got: f64, row: &Value, name: &str) {
    let want = row[name].as_f64().unwrap();
    assert!((got - want).abs() < 1e-10, "{name}: {got} instead of {want} in {row}");
}

#[test]
fn wilson_as_scipy() {
    for row in golden()["wilson_95"].as_array().unwrap() {
        let interval = wilson_interval(count(row, "k"), count(row, "n"), CONFIDENCE).unwrap();
        close(interval.low, row, "low");
        close(interval.high, row, "high");
    }
    assert!(wilson_interval(0, 0, CONFIDENCE).is_err());
    assert!(wilson_interval(3, 2, CONFIDENCE).is_err());
    assert!(wilson_interval(1, 2, 1.0).is_err());
}

#[test]
fn mcnemar_as_scipy() {
    for row in golden()["mcnemar_exact_two_sided"].as_array().unwrap() {
        close(mcnemar_exact(count(row, "b"), count(row, "c")), row, "p");
    }
}

#[test]
fn newcombe_method_10() {
    for row in golden()["paired_difference_95_newcombe_method_10"].as_array().unwrap() {
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| count(row, name));
        let interval = paired_difference_interval(a, b, c, d, CONFIDENCE).unwrap();
        close(interval.low, row, "low");
        close(interval.high, row, "high");
    }
}

#[test]
fn paired_lists() {
    let before = [true, true, false, true, false];
    let after = [true, false, true, false, false];
    let found = paired_difference(&before, &after, CONFIDENCE).unwrap();
    assert_eq!((found.n, found.lost, found.gained), (5, 2, 1));
    assert!((found.drop - 0.2).abs() < 1e-12 && found.p_value == 1.0);
    assert!(paired_difference(&before, &after[1..], CONFIDENCE).unwrap_err().to_string().contains("5 items before and 4 after"));
}

#[test]
fn holm_is_monotone_and_keeps_the_order() {
    let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]).unwrap();
    for (got, want) in adjusted.iter().zip([0.03, 0.06, 0.06, 0.02]) {
        assert!((got - want).abs() < 1e-12);
    }
    assert_eq!(holm(&[0.9, 0.8]).unwrap(), [1.0, 1.0]);
    assert!(holm(&[1.5]).is_err());
    assert!(holm(&[]).unwrap().is_empty());
}

#[test]
fn from_scripts() {
    let mut engine = Engine::new();
    ftrepl::script::register(&mut engine);
    let map: Map = engine.eval("paired_difference([true, true, false], [false, true, false])").unwrap();
    assert_eq!(map["lost"].as_int().unwrap(), 1);
    assert_eq!(map["p_value"].as_float().unwrap(), 1.0);
    let adjusted: Array = engine.eval("holm([0.02, 1])").unwrap();
    assert_eq!(adjusted[1].as_float().unwrap(), 1.0);
    let many: Map = engine.eval("mcnemar(4000000000000000000, 4000000000000000001)").unwrap();
    assert_eq!(many["p_value"].as_float().unwrap(), 1.0);
    let error = engine.eval::<Map>("wilson_interval(-1, 3)").unwrap_err().to_string();
    assert!(error.contains("k counts items"), "{error}");
}
