//! What scripts can tell `forward` beside the tokens.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use ftrepl::session::Session;

fn value(script: &str) -> String {
    let mut session = Session::builder().device("cpu").build().unwrap();
    let model = "let model = AutoModelForCausalLM::from_pretrained(\"tiny-random\", #{ dtype: \"f32\" });";
    session.eval_line(&format!("{model}\n{script}")).unwrap_or_else(|error| panic!("{error}\n{script}")).to_string()
}

/// Tokens between which others are masked are as far apart as they are in the whole row: positions say the same without a mask.
#[test]
fn positions_can_be_given() {
    let same = "let same = |a, b| (a - b).abs().max().item() < 1e-5;";
    let found = value(&format!(
        "{same}
        let apart = model.forward([5, 1, 6, 1, 7], #{{ attention_mask: [1, 0, 1, 0, 1] }}).logits[0];
        let given = model.forward([5, 6, 7], #{{ position_ids: [0, 2, 4] }}).logits[0];
        let near = model.forward([5, 6, 7]).logits[0];
        [same.call(given[1], apart[2]), same.call(given[2], apart[4]), same.call(given[2], near[2])]"
    ));
    assert_eq!(found, "[true, true, false]");
    // Padding on the left, positions as generation counts them, and one row of positions for all rows.
    let found = value(&format!(
        "{same}
        let plain = model.forward([5, 6, 7], #{{ labels: [5, 6, 7] }});
        let padded = model.forward([[0, 0, 5, 6, 7]], #{{
            attention_mask: [[0, 0, 1, 1, 1]], position_ids: [[1, 1, 0, 1, 2]], labels: [[-100, -100, 5, 6, 7]]
        }});
        let rows = model.forward([[5, 6, 7], [5, 6, 7]], #{{ position_ids: [0, 1, 2] }});
        [same.call(plain.logits[0][2], padded.logits[0][4]), same.call(plain.loss, padded.loss),
            same.call(plain.logits[0], rows.logits[1])]"
    ));
    assert_eq!(found, "[true, true, true]");
}
