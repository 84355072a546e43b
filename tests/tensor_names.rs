//! Functions that PyTorch users look for by name, with PyTorch 2.14's results and gradients.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, missing_docs)]

mod script_engine;

use script_engine::{fails, run};

/// Whether a script's value, a list or a tensor, is close to what PyTorch gave.
fn is_close(script: &str, value: &str, expected: &str) {
    let compared = format!("{script}; allclose(tensor({value}), tensor({expected}), #{{ rtol: 2e-5, atol: 1e-6 }})");
    assert_eq!(run(&compared), "true", "{script}: {} instead of {expected}", run(&format!("{script}; {value}")));
}

#[test]
fn dimensions_are_put_in_another_order() {
    let x = "let x = arange(24).reshape([2, 3, 4]);";
    assert_eq!(run(&format!("{x} let y = x.permute(0, 2, 1); [y.shape, y[1][3].to_list()]")), "[[2, 4, 3], [15, 19, 23]]");
    assert_eq!(run(&format!("{x} let y = x.permute([-1, 0, 1]); [y.shape, y[1][1].to_list()]")), "[[4, 2, 3], [13, 17, 21]]");
    assert_eq!(
        run(&format!("{x} [x.T.shape, x.T[3][2][1].item(), x.mT.shape, x.mT[1][3][2].item()]")),
        "[[4, 3, 2], 23, [2, 4, 3], 23]"
    );
    assert_eq!(run("[ones([3]).T.shape, tensor([[1, 2]]).T.to_list(), ones([3]).permute(0).shape]"), "[[3], [[1], [2]], [3]]");
    let script = "let w = tensor([[1.0, 2.0], [3.0, 4.0]], #{ requires_grad: true });
        (w.T * tensor([[1.0, 10.0], [100.0, 1000.0]])).sum().backward(); w.grad.to_list()";
    assert_eq!(run(script), "[[1.0, 100.0], [10.0, 1000.0]]");
    for wrong in ["x.permute(0, 1)", "x.permute(0, 1, 1)", "x.permute([0, 1, 2, 0])", "x.permute(\"a\")"] {
        assert!(fails(&format!("{x} {wrong}")).contains("each of the 3 dimensions once"), "{wrong}");
    }
    assert!(fails(&format!("{x} x.permute(0, 1, 3)")).contains("out of range"));
    assert!(fails("ones([3]).mT").contains("at least 2 dimensions"));
}

#[test]
fn where_chooses_and_passes_gradients_to_what_was_chosen() {
    assert_eq!(run("let x = tensor([-1.0, 2.0]); where(x > 0, x, 0).to_list()"), "[0.0, 2.0]");
    let mask = "let c = tensor([1, 0, 1]) > 0;";
    let with = |a: &str, b: &str| run(&format!("{mask} let y = where(c, {a}, {b}); [y.dtype, y.to_list()]"));
    assert_eq!(with("1", "2"), r#"["i64", [1, 2, 1]]"#);
    assert_eq!(with("1.0", "2"), r#"["f32", [1.0, 2.0, 1.0]]"#);
    assert_eq!(with("tensor([1, 2, 3])", "0.5"), r#"["f32", [1.0, 0.5, 3.0]]"#);
    assert_eq!(with("tensor([1, 2, 3]).to(\"bf16\")", "0.5"), r#"["bf16", [1.0, 0.5, 3.0]]"#);
    assert_eq!(with("tensor([1, 2, 3])", "tensor([4.0, 5.0, 6.0])"), r#"["f32", [1.0, 5.0, 3.0]]"#);
    let script = format!(
        "{mask} let a = tensor([1.0, 2.0, 3.0], #{{ requires_grad: true }});
         let b = tensor([[0.0 / 0.0], [2.0]], #{{ requires_grad: true }});
         let y = where(c, a, b); y.sum().backward(); [y.shape, y[1].to_list(), a.grad.to_list(), b.grad.to_list()]"
    );
    assert_eq!(run(&script), "[[2, 3], [1.0, 2.0, 3.0], [2.0, 0.0, 2.0], [[1.0], [1.0]]]");
    // What was not chosen may be infinite, also in its gradient.
    let root =
        "let w = tensor([0.0, 4.0], #{ requires_grad: true }); where(w > 0, w, 1.0).sqrt().sum().backward(); w.grad.to_list()";
    assert_eq!(run(root), "[0.0, 0.25]");
    assert_eq!(
        run("let x = tensor([-1.0, 2.0]); [x.where(x > 0, 7.0).to_list(), where(x[1] > 0, 3, 4).item()]"),
        "[[7.0, 2.0], 3]"
    );
    assert!(fails("where(tensor([1, 0]), 1, 2)").contains("must be a mask such as x > 0"));
    assert!(fails("where(tensor([1, 0]) > 0, \"a\", 2)").contains("tensors and numbers"));
    assert!(fails("where(ones([2]) > 0, ones([3]), 2)").contains("must match"));
}

#[test]
fn tensors_are_made_like_others() {
    assert_eq!(
        run("[eye(2).to_list(), eye(2, 3).to_list(), eye(3, 1).to_list()]"),
        "[[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[1.0], [0.0], [0.0]]]"
    );
    assert_eq!(
        run("[eye(2, #{ dtype: \"i64\" }).to_list(), eye(1, 2, #{ requires_grad: true }).requires_grad]"),
        "[[[1, 0], [0, 1]], true]"
    );
    assert!(fails("eye(-1)").contains("negative"));
    assert_eq!(
        run(
            "let x = tensor([1, 2]); [full_like(x, 0.5).to_list(), full_like(x, 7).dtype, full_like(x, 0.5, #{ dtype: \"f32\" }).to_list()]"
        ),
        r#"[[0, 0], "i64", [0.5, 0.5]]"#
    );
    assert_eq!(run("full_like(tensor([0]), 9007199254740993).item()"), "9007199254740993");
    let leaf = |call: &str| run(&format!("let w = {call}; (w * 3.0).sum().backward(); [w.dtype, w.grad.to_list()]"));
    assert_eq!(leaf("zeros_like(tensor([1, 2]), #{ dtype: \"f64\", requires_grad: true })"), r#"["f64", [3.0, 3.0]]"#);
    assert_eq!(leaf("ones_like(ones([1]), #{ requires_grad: true })"), r#"["f32", [3.0]]"#);
    assert_eq!(
        run("let w = ones([2], #{ requires_grad: true }); [zeros_like(w).requires_grad, ones_like(w.to(\"bf16\")).dtype]"),
        r#"[false, "bf16"]"#
    );
    is_close(
        "manual_seed(0); let x = rand_like(zeros([2, 3]))",
        "x",
        "[[0.49625659, 0.76822180, 0.08847743], [0.13203049, 0.30742282, 0.63407868]]",
    );
    assert_eq!(run("manual_seed(5); let a = randn([20]); manual_seed(5); a == randn_like(zeros([20]))"), "true");
    assert_eq!(run("randn_like(tensor([1, 2]), #{ dtype: \"f32\" }).dtype"), "f32");
    assert!(fails("rand_like(tensor([1, 2]))").contains("floating-point dtype"));
    assert_eq!(
        run(
            "manual_seed(0); [randint(10, [4]).to_list(), randint(5, 10, [2, 2]).to_list(), randint(3, [2], #{ dtype: \"f32\" }).to_list()]"
        ),
        "[[4, 9, 3, 0], [[8, 9], [7, 8]], [1.0, 0.0]]"
    );
    assert_eq!(
        run(
            "[randint(2, 3, 4).to_list(), randint(1, 2, #{ dtype: \"u8\" }).to_list(), randint(2, 3, [1], #{ dtype: \"f32\" }).to_list()]"
        ),
        "[[2, 2, 2, 2], [0, 0], [2.0]]"
    );
    assert!(fails("randint(0, [2])").contains("low < high"));
}

#[test]
fn triangles_keep_one_side_of_a_diagonal() {
    let x = "let x = arange(6).reshape([2, 3]);";
    assert_eq!(
        run(&format!("{x} [x.tril().to_list(), x.triu(1).to_list(), x.tril(#{{ diagonal: -1 }}).to_list()]")),
        "[[[0, 0, 0], [3, 4, 0]], [[0, 1, 2], [0, 0, 5]], [[0, 0, 0], [3, 0, 0]]]"
    );
    assert_eq!(run("let x = ones([2, 2, 2]) / 0.0; (x.triu()[1] > 1).to_list()"), "[[1, 1], [0, 1]]");
    assert_eq!(
        run("let w = ones([2, 2], #{ requires_grad: true }); (w.tril() * 3.0).sum().backward(); w.grad.to_list()"),
        "[[3.0, 0.0], [3.0, 3.0]]"
    );
    assert!(fails("ones([3]).tril()").contains("tril needs at least 2 dimensions"));
}

#[test]
fn norms_have_pytorchs_orders_and_gradients() {
    for (p, value, gradient) in [
        ("1", "7.0", "[1.0, -1.0, 0.0]"),
        ("2", "5.0", "[0.6, -0.8, 0.0]"),
        ("3", "4.497941493988037", "[0.4449, -0.7908, 0.0]"),
        ("0.5", "13.928203582763672", "[2.1547, -1.8660, 0.0]"),
        ("-1", "0.0", "[0.0, 0.0, 0.0]"),
        ("\"inf\"", "4.0", "[0.0, -1.0, 0.0]"),
        ("1.0 / 0.0", "4.0", "[0.0, -1.0, 0.0]"),
        ("\"-inf\"", "0.0", "[0.0, 0.0, 0.0]"),
        ("\"fro\"", "5.0", "[0.6, -0.8, 0.0]"),
    ] {
        let script = format!("let w = tensor([3.0, -4.0, 0.0], #{{ requires_grad: true }}); let n = w.norm({p}); n.backward()");
        is_close(&script, "n.item()", value);
        let compared = format!("{script}; allclose(w.grad, tensor({gradient}), #{{ rtol: 0.0, atol: 6e-5 }})");
        assert_eq!(run(&compared), "true", "{p}: {}", run(&format!("{script}; w.grad")));
        let zero = format!("let w = zeros([2], #{{ requires_grad: true }}); w.norm({p}).backward(); w.grad.abs().to_list()");
        assert_eq!(run(&zero), "[0.0, 0.0]", "{p}");
    }
    assert_eq!(run("tensor([3.0, -4.0, 0.0]).norm(0).item()"), "2.0");
    let rows = |p: &str| {
        format!(
            "let w = tensor([[3.0, -4.0, 4.0], [1.0, 2.0, -2.0]], #{{ requires_grad: true }}); let n = w.norm({p}, #{{ dim: 1, keepdim: true }}); n.sum().backward()"
        )
    };
    is_close(&rows("3"), "n", "[[5.37168550491333], [2.571281671524048]]");
    is_close(&rows("3"), "w.grad", "[[0.31190431, -0.55449653, 0.55449653], [0.15125185, 0.60500744, -0.60500744]]");
    is_close(&rows("\"inf\""), "n", "[[4.0], [2.0]]");
    is_close(&rows("\"inf\""), "w.grad", "[[0.0, -0.5, 0.5], [0.0, 0.5, -0.5]]");
    let x = "let x = tensor([[3.0, -4.0, 0.0], [1.0, 2.0, -2.0]])";
    is_close(x, "x.norm(#{ dim: 0 })", "[3.1622777, 4.4721360, 2.0]");
    is_close(x, "x.norm(2, [0, 1])", "5.8309519");
    is_close(x, "x.norm(1, 0, #{ keepdim: true })", "[[4.0, 6.0, 2.0]]");
    is_close(x, "x.norm(#{ p: \"inf\", dim: 1 })", "[4.0, 2.0]");
    assert!(fails("ones([2]).norm(\"nuc\")").contains("\"fro\""));
    assert!(fails("tensor([1]).norm(1)").contains("floating-point"));
    assert!(fails("ones([2]).norm(1, #{ p: 2 })").contains("twice"));
}

#[test]
fn classes_can_count_unequally_in_the_cross_entropy() {
    let data = "let l = tensor([[1.0, 2.0, 3.0], [0.5, -1.0, 2.0], [0.0, 0.0, 1.0]], #{ requires_grad: true });
        let t = tensor([2, 0, -100]); let w = tensor([1.0, 2.0, 0.5]);
        let soft = tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.1, 0.1, 0.8]]);";
    for (reduction, smoothing, hard, soft) in [
        ("mean", "0.0", "1.2967427968978882", "1.2851029634475708"),
        ("mean", "0.1", "1.473095417022705", "1.3643842935562134"),
        ("sum", "0.0", "1.945114254951477", "3.855308771133423"),
        ("sum", "0.1", "2.2096431255340576", "4.09315299987793"),
        ("none", "0.0", "[0.20380297, 1.74131131, 0.0]", "[1.42798626, 1.74131131, 0.68601131]"),
        ("none", "0.1", "[0.36431003, 1.84533322, 0.0]", "[1.46607494, 1.84533322, 0.78174543]"),
    ] {
        let options = format!("#{{ weight: w, reduction: \"{reduction}\", label_smoothing: {smoothing} }}");
        is_close(data, &format!("cross_entropy(l, t, {options})"), hard);
        is_close(data, &format!("cross_entropy(l, soft, {options})"), soft);
        is_close(data, &format!("nn::CrossEntropyLoss({options}).forward(l, t)"), hard);
    }
    let gradient = format!("{data} cross_entropy(l, t, #{{ weight: [1.0, 2.0, 0.5], label_smoothing: 0.1 }}).backward()");
    let expected = "[[0.01178933, 0.04800854, -0.05979784], [-0.50341427, -0.01793481, 0.52134907], [0.0, 0.0, 0.0]]";
    is_close(&gradient, "l.grad", expected);
    // Pixels: the classes are the second dimension.
    let pixels = format!("{data} let p = l.T.reshape([1, 3, 3])");
    is_close(&pixels, "cross_entropy(p, t.reshape([1, 3]), #{ weight: w })", "1.2967427968978882");
    assert_eq!(run("cross_entropy(tensor([[0.0, -1.0 / 0.0]]), tensor([0]), #{ weight: [2.0, 1.0] }).abs().item()"), "0.0");
    assert!(fails(&format!("{data} cross_entropy(l, t, #{{ weight: [1.0, 2.0] }})")).contains("each of the 3 classes"));
    assert!(fails(&format!("{data} cross_entropy(l, soft, #{{ weight: [1.0, 2.0] }})")).contains("each of the 3 classes"));
}

#[test]
fn a_layers_weight_changes_in_place_and_is_not_replaced() {
    let layer = "let m = nn::Linear(2, 1); m.weight = m.weight; let o = optim::SGD(m.parameters(), #{ lr: 1.0 });
        let before = m.weight.to_list(); m.forward(tensor([[3.0, 5.0]])).sum().backward();";
    is_close(
        &format!("{layer} no_grad(|| {{ m.weight -= 0.5 * m.weight.grad; }})"),
        "m.weight - tensor(before)",
        "[[-1.5, -2.5]]",
    );
    // It is still the parameter that the optimizer has.
    is_close(&format!("{layer} no_grad(|| {{ m[\"weight\"] *= 0.0; }}); o.step()"), "m.weight", "[[-3.0, -5.0]]");
    let nested = "let m = nn::Module(#{ body: nn::Sequential([nn::Linear(1, 1)]), scale: tensor(2.0, #{ requires_grad: true }) }, |m, x| m.body.forward(x) * m.scale);";
    is_close(
        &format!("{nested} no_grad(|| {{ m.scale += 1.5; m.body[0].bias *= 0.0; m.body[0].bias += 4; }})"),
        "[m.scale.item(), m.body[0].bias[0].item()]",
        "[3.5, 4.0]",
    );
    assert_eq!(run(&format!("{nested} m.body[0].weight.requires_grad = false; m.body[0].weight.requires_grad")), "false");
    assert!(fails(&format!("{layer} m.weight -= 0.5 * m.weight.grad")).contains("inside no_grad"));
    assert!(fails(&format!("{layer} m.weight = ones([1, 2])")).contains("not replaced"));
    assert!(fails("nn::Module(#{ a: [1] }, |m, x| x).a.push(2)").contains("cannot be replaced or changed"));
    assert!(fails(&format!("{layer} m.wieght = 1")).contains("no child \"wieght\""));
}
