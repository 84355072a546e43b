//! What PyTorch users write by habit, with PyTorch's results: integers, powers, masks, keyword arguments, parameters changed in place.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, missing_docs)]

mod script_engine;

use script_engine::{fails, run};

#[test]
fn integers_are_computed_or_refused_in_words() {
    assert_eq!(run("[(arange(5) ** 2).to_list(), (tensor([-2, 3]) ** 5).to_list()]"), "[[0, 1, 4, 9, 16], [-32, 243]]");
    assert_eq!(run("[tensor([0]).tanh().to_list(), nn::Sigmoid().forward([0]).to_list()]"), "[[0.0], [0.5]]");
    assert_eq!(run("[relu(tensor([-1, 2])).to_list(), tensor([1, 0], #{ dtype: \"u8\" }).abs().to_list()]"), "[[0, 2], [1, 0]]");
    assert_eq!(
        run("[nn::LayerNorm(2).forward([1, 3]).dtype, nn::RMSNorm(2).forward(tensor([1, 3])).dtype]"),
        r#"["f32", "f32"]"#
    );
    for call in [
        "gelu(tensor([1]))",
        "gelu(tensor([1]), #{ approximate: \"tanh\" })",
        "silu(tensor([1]))",
        "nn::SiLU().forward([1])",
        "mse_loss(tensor([1]), tensor([2]))",
        "nn::MSELoss().forward([1], [2])",
        "cross_entropy(tensor([[1, 2]]), tensor([0]))",
        "kl_div(tensor([[1, 2]]), tensor([[1, 2]]))",
        "nn::Dropout(0.5).forward(tensor([1]))",
    ] {
        assert!(fails(call).contains("floating-point"), "{call}");
    }
    assert_eq!(run("tensor([1.5], #{ requires_grad: true }).to(\"i64\").requires_grad"), "false");
}

#[test]
fn powers_of_tensors_are_pytorchs() {
    assert_eq!(run("(tensor([-2.0, 0.0, 3.0, -8.0]) ** tensor([2.0, 0.0, 2.0, 3.0])).to_list()"), "[4.0, 1.0, 9.0, -512.0]");
    assert_eq!(run("(tensor([-2.0], #{ dtype: \"f64\" }) ** tensor([3])).to_list()"), "[-8.0]");
    assert_eq!(run("(tensor([-2.0], #{ dtype: \"bf16\" }) ** tensor([[2.0], [3.0]])).to_list()"), "[[4.0], [-8.0]]");
    assert_eq!(run("let y = tensor([2, -3]) ** tensor([3, 3]); [y.dtype, y.to_list()]"), r#"["i64", [8, -27]]"#);
    assert_eq!(run("[(2 ** tensor([3, -1])).to_list(), ((-2) ** tensor([2.0, 3.0])).to_list()]"), "[[8, 0], [4.0, -8.0]]");
    assert_eq!(
        run(
            "let a = tensor([-2.0, 0.0, 3.0, 1.5], #{ requires_grad: true }); (a ** tensor([3.0, 1.0, 2.0, 0.0])).sum().backward(); a.grad.to_list()"
        ),
        "[12.0, 1.0, 6.0, 0.0]"
    );
    assert_eq!(
        run(
            "let b = tensor([2.0, 0.0, 3.0], #{ requires_grad: true }); (tensor([0.0, 0.0, 1.0]) ** b).sum().backward(); b.grad.to_list()"
        ),
        "[0.0, 0.0, 0.0]"
    );
    assert_eq!(
        run(
            "let b = tensor(2.0, #{ requires_grad: true }); (2.0 ** b).backward(); allclose(b.grad, tensor(2.7725887), #{ rtol: 1e-6 })"
        ),
        "true"
    );
    assert!(fails("ones([2]) ** ones([3])").contains("size of tensor a (2)"));
}

#[test]
fn products_of_empty_matrices_have_pytorchs_shapes() {
    assert_eq!(
        run(
            "[zeros([0]).matmul(zeros([0])).shape, ones([3]).matmul(zeros([3, 0])).shape, zeros([0, 3]).matmul(ones([3])).shape]"
        ),
        "[[], [0], [0]]"
    );
    assert_eq!(run("zeros([2, 1, 0, 3]).matmul(zeros([5, 3, 4])).shape"), "[2, 5, 0, 4]");
    assert_eq!(
        run("[zeros([0]).matmul(zeros([0])).item(), ones([2, 0]).matmul(ones([0, 1])).to_list()]"),
        "[0.0, [[0.0], [0.0]]]"
    );
    assert!(fails("zeros([2, 0, 3]).matmul(zeros([5, 3, 4]))").contains("batch dimensions"));
}

#[test]
fn a_nan_is_an_extreme() {
    let ask = |rest: &str| run(&format!("let nan = 0.0 / 0.0; let x = tensor([[1.0, nan, 3.0], [2.0, 1.0, 1.0 / 0.0]]); {rest}"));
    assert_eq!(
        ask("[x.argmax().item(), x.argmin().item(), x.argmax(1).to_list(), x.argmin(0).to_list()]"),
        "[1, 1, [1, 2], [0, 0, 0]]"
    );
    assert_eq!(
        ask("let m = x.max(1); [m.indices.to_list(), m.values[0].item().is_nan(), m.values[1].item().is_infinite()]"),
        "[[1, 2], true, true]"
    );
    assert_eq!(
        ask("let m = maximum(x[0], tensor([nan, 0.0, 5.0])).to_list(); [m[0].is_nan(), m[1].is_nan(), m[2]]"),
        "[true, true, 5.0]"
    );
    assert_eq!(ask("let m = minimum(x[0], tensor([0.0, 0.0, 5.0])).to_list(); [m[0], m[1].is_nan(), m[2]]"), "[0.0, true, 3.0]");
}

#[test]
fn numbers_are_compared_from_either_side() {
    assert_eq!(
        run("let l = tensor(0.5); [0.1 < l, 1 > l, 1 <= l, 0.5 >= l, l == 0.5, 0.5 == l, l != 0.5, 1 != l]"),
        "[true, true, false, true, true, true, false, true]"
    );
    assert_eq!(
        run(
            "let x = tensor([1, 2]); [(1 < x).to_list(), (x == 2).to_list(), (2.0 != x).to_list(), x.eq(1).to_list(), x.ne(1.0).to_list()]"
        ),
        "[[0, 1], [0, 1], [1, 0], [1, 0], [0, 1]]"
    );
    // With what is no number a tensor is never equal.
    assert_eq!(run("let w = tensor(1.0, #{ requires_grad: true }); [w.grad == (), w == (), w != \"a\"]"), "[true, false, true]");
}

#[test]
fn parameters_change_in_place_inside_no_grad() {
    assert_eq!(
        run("let m = nn::Linear(2, 1); let before = m.weight.detach().clone(); m.forward(ones([2])).sum().backward();
             for p in m.parameters() { no_grad(|| { p -= 0.5 * p.grad; }); }
             [allclose(before - m.weight.detach(), tensor([[0.5, 0.5]]), #{ atol: 1e-6 }), m.weight.requires_grad]"),
        "[true, true]"
    );
    assert_eq!(
        run("let w = tensor([2.0], #{ requires_grad: true }); let same = w;
             no_grad(|| { w *= 3; w += tensor([2.0]); w /= 4.0; }); (w * w).sum().backward(); [same.item(), same.grad.item()]"),
        "[2.0, 4.0]"
    );
    assert_eq!(
        run("let m = nn::Linear(2, 1); m.requires_grad(false); for p in m.parameters() { p *= 0; } m.weight.abs().sum().item()"),
        "0.0"
    );
    // While gradients are recorded the name gets the result, and the parameter stays.
    assert_eq!(
        run(
            "let w = tensor([2.0], #{ requires_grad: true }); let y = w; y += 1.0; y.sum().backward(); [w.item(), y.item(), w.grad.item()]"
        ),
        "[2.0, 3.0, 1.0]"
    );
    assert!(fails("let w = ones([1], #{ requires_grad: true }); no_grad(|| { w += ones([2]); });").contains("shape"));
}

#[test]
fn dimensions_are_given_by_name_too() {
    assert_eq!(
        run("let x = tensor([[1.0, 2.0], [5.0, 3.0]]); [x.sum(#{ dim: 1 }).to_list(), x.mean(#{ dim: [0, 1], keepdim: true }).shape,
             x.argmax(#{ dim: -1 }).to_list(), x.argmin(-1, #{ keepdim: true }).shape, x.max(#{ dim: 1 }).values.to_list(),
             x.min(1, #{ keepdim: true }).indices.shape, x.min(#{}).item()]"),
        "[[3.0, 8.0], [1, 1], [1, 0], [2, 1], [2.0, 5.0], [2, 1], 1.0]"
    );
    assert_eq!(
        run(
            "let x = tensor([[1.0, 2.0], [5.0, 3.0]]); [softmax(x, #{ dim: 0 }) == softmax(x, 0), cat([x, x], #{ dim: 1 }).shape,
             stack([x, x], #{ dim: -1 }).shape, x.clamp(#{ min: 2.0 }).to_list(), x.clip(#{ max: 2 }).to_list()]"
        ),
        "[true, [2, 4], [2, 2, 2], [[2.0, 2.0], [5.0, 3.0]], [[1.0, 2.0], [2.0, 2.0]]]"
    );
    assert!(fails("ones([2]).softmax(#{})").contains("option \"dim\" is required"));
    assert!(fails("ones([2]).max(#{ keepdim: true })").contains("needs the option dim"));
    assert!(fails("ones([2]).sum(#{ dim: \"a\" })").contains("an integer or an array of integers"));
    assert!(fails("mse_loss(ones([2]), ones([2]), #{ ignore_index: 3 })").contains("unknown option \"ignore_index\""));
}

#[test]
fn backward_takes_a_gradient_and_pytorchs_options() {
    let start = "let w = tensor([1.0, 2.0], #{ requires_grad: true });";
    assert_eq!(run(&format!("{start} (w * w).backward(tensor([1.0, 10.0])); w.grad.to_list()")), "[2.0, 40.0]");
    assert_eq!(
        run(&format!("{start} let y = (w * w).sum(); y.backward(#{{ retain_graph: true }}); y.backward(); w.grad.to_list()")),
        "[4.0, 8.0]"
    );
    assert!(fails(&format!("{start} (w * w).backward(ones([3]))")).contains("[3]"));
    let optimizer = "let o = optim::SGD([w], #{ lr: 0.5 }); w.sum().backward();";
    assert_eq!(run(&format!("{start} {optimizer} o.zero_grad(#{{ set_to_none: true }}); w.grad == ()")), "true");
    assert_eq!(
        run(
            "let m = nn::Linear(2, 1); m.forward([1, 2]).sum().backward(); m.zero_grad(#{ set_to_none: true }); m.weight.grad == ()"
        ),
        "true"
    );
    assert!(fails(&format!("{start} {optimizer} o.zero_grad(#{{ set_to_none: false }})")).contains("set_to_none"));
}

#[test]
fn masks_join_and_choose() {
    assert_eq!(
        run(
            "let x = arange(5); [((x > 0) & (x < 3)).to_list(), ((x < 1) | (x > 3)).to_list(), (!(x > 2)).to_list(), (x ^ tensor(1)).to_list()]"
        ),
        "[[0, 1, 1, 0, 0], [1, 0, 0, 0, 1], [1, 1, 1, 0, 0], [1, 0, 3, 2, 5]]"
    );
    assert_eq!(
        run("let x = tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]); [x[x > 2.5].to_list(), x[tensor([2, 0, -1])].to_list(), x[tensor([[0], [1]])].shape,
             x[tensor([true, false, true])].to_list(), x[x > 9].shape]"),
        "[[3.0, 4.0, 5.0, 6.0], [[5.0, 6.0], [1.0, 2.0], [5.0, 6.0]], [2, 1, 2], [[1.0, 2.0], [5.0, 6.0]], [0]]"
    );
    assert_eq!(
        run(
            "let w = tensor([1.0, -2.0, 3.0], #{ requires_grad: true }); (w[w > 0] * w[tensor([0, 0])]).sum().backward(); w.grad.to_list()"
        ),
        "[5.0, 0.0, 1.0]"
    );
    assert!(fails("ones([2]) & ones([2])").contains("floating-point"));
    assert!(fails("ones([2])[tensor([2])]").contains("out of range"));
    assert!(fails("ones([2])[tensor([0.5])]").contains("indexed by integers"));
    assert!(fails("ones([3])[ones([2]) > 0]").contains("does not fit"));
}

#[test]
fn tensors_are_made_from_tensors_and_with_options() {
    assert_eq!(run("tensor([tensor(1.0), tensor(2.0), 3]).to_list()"), "[1.0, 2.0, 3.0]");
    assert_eq!(run("let x = tensor([tensor([1, 2]), [3, 4]]); [x.dtype, x.to_list()]"), r#"["i64", [[1, 2], [3, 4]]]"#);
    assert!(fails("tensor([tensor(1.0, #{ requires_grad: true })])").contains("stack"));
    assert!(fails("tensor([tensor([1, 2]), [3]])").contains("expected 2 elements"));
    assert_eq!(
        run("let x = full([2], 1, #{ dtype: \"f32\", requires_grad: true }); [x.to_list(), x.requires_grad]"),
        "[[1.0, 1.0], true]"
    );
    assert_eq!(
        run(
            "[arange(3, #{ dtype: \"f32\" }).to_list(), arange(1, 3, #{ dtype: \"u8\" }).dtype, arange(0, 4, 2, #{ requires_grad: false }).to_list()]"
        ),
        r#"[[0.0, 1.0, 2.0], "u8", [0, 2]]"#
    );
}

#[test]
fn numbers_in_f64_keep_their_digits() {
    let kinds = "[tensor(0.1, #{ dtype: \"f64\" }).item(), full([1], 0.1, #{ dtype: \"f64\" }).item(), arange(0.1, 0.2, #{ dtype: \"f64\" }).item()]";
    assert_eq!(run(kinds), "[0.1, 0.1, 0.1]");
    assert_eq!(
        run("[tensor(0.1) == tensor(0.1, #{ dtype: \"f64\" }), tensor([16777217.0], #{ dtype: \"double\" }).item()]"),
        "[false, 16777217.0]"
    );
}

#[test]
fn a_layer_that_stands_twice_has_its_parameters_once() {
    let start = "let l = nn::Linear(2, 2); let s = nn::Sequential([l, nn::ReLU(), l]);";
    assert_eq!(
        run(&format!("{start} [s.parameters().len(), s.num_parameters(), s.named_parameters().keys().len()]")),
        "[2, 6, 2]"
    );
    assert_eq!(
        run(&format!(
            "{start} s.forward(ones([2])).sum().backward(); let o = optim::SGD(s.parameters(), #{{ lr: 0.1 }}); o.step(); s.load_state_dict(s.state_dict()); s.state_dict().keys().len()"
        )),
        "4"
    );
}

#[test]
fn class_numbers_are_whole() {
    assert!(fails("cross_entropy(ones([1, 3]), tensor([0.7]))").contains("whole numbers"));
    assert_eq!(run("cross_entropy(ones([1, 3]), tensor([1.0])) == cross_entropy(ones([1, 3]), tensor([1]))"), "true");
}

#[test]
fn the_norm_of_no_gradients_is_zero() {
    assert_eq!(run("clip_grad_norm(nn::Linear(2, 1).parameters(), 1.0)"), "0.0");
    assert_eq!(run("clip_grad_norm([], 1.0)"), "0.0");
}

#[test]
fn the_cross_entropy_has_pytorchs_options_and_shapes() {
    let close = |expected: &str, found: &str| {
        let script = format!(
            "let x = tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 1.0], [5.0, 1.0, 0.0]], #{{ requires_grad: true }}); let t = tensor([2, -100, 1]); let y = arange(12).to(\"f32\").reshape([2, 3, 2]); allclose({found}, tensor({expected}), #{{ atol: 1e-4 }})"
        );
        assert_eq!(run(&script), "true", "{found}");
    };
    close("2.2161756", "cross_entropy(x, t, #{ label_smoothing: 0.25 })");
    close("4.4323511", "nn::CrossEntropyLoss(#{ label_smoothing: 0.25, reduction: \"sum\" }).forward(x, t)");
    close("[0.6576060, 0.0, 3.7747450]", "cross_entropy(x, t, #{ label_smoothing: 0.25, reduction: \"none\" })");
    let gradient = "{ cross_entropy(x, t, #{ label_smoothing: 0.25 }).backward(); x.grad }";
    close("[[0.0033, 0.0807, -0.0840], [0.0, 0.0, 0.0], [0.4461, -0.4077, -0.0384]]", gradient);
    // The classes are the second dimension.
    let images = "x.unsqueeze(0).transpose(1, 2)";
    close("[[0.4076059, 0.0, 4.0247450]]", &format!("cross_entropy({images}, t.reshape([1, 3]), #{{ reduction: \"none\" }})"));
    close("27.358372", "cross_entropy(y, y)");
    close("14.750652", "cross_entropy(y, y, #{ label_smoothing: 0.5 })");
    assert!(fails("cross_entropy(ones([1, 3]), tensor([1]), #{ label_smoothing: 1.5 })").contains("between 0 and 1"));
}

#[test]
fn gradients_where_nothing_varies_and_of_equal_extremes() {
    for dtype in ["f32", "f64"] {
        let ask = |data: &str, call: &str| {
            run(&format!(
                "let x = tensor({data}, #{{ dtype: \"{dtype}\", requires_grad: true }}); x.{call}.sum().backward(); x.grad.to_list()"
            ))
        };
        let gradient = ask("[[2.0, 2.0], [2.0, 4.0]]", "std(0)");
        assert!(gradient.starts_with("[[0.0, -0.7071") && gradient.contains("], [0.0, 0.7071"), "{gradient}");
        assert_eq!(ask("[2.0, 2.0]", "std()"), "[0.0, 0.0]");
        assert_eq!(ask("[0.0, 0.0]", "norm()"), "[0.0, 0.0]");
        assert_eq!(ask("[1.0, 4.0, 4.0]", "max()"), "[0.0, 0.5, 0.5]");
        assert_eq!(ask("[1.0, 1.0, 4.0, 1.0, 1.0]", "min()"), "[0.25, 0.25, 0.0, 0.25, 0.25]");
    }
    assert_eq!(
        run("let x = tensor([1.0, 1.0 / 0.0], #{ dtype: \"f64\", requires_grad: true }); x.max().item().is_infinite()"),
        "true"
    );
}

#[test]
fn variances_take_pytorchs_options() {
    let start = "let x = tensor([[1.0, 3.0], [2.0, 8.0]]);";
    assert_eq!(
        run(&format!(
            "{start} [x.var(1).to_list(), x.var(#{{ dim: 1, unbiased: false }}).to_list(), x.std(1, #{{ correction: 0, keepdim: true }}).to_list()]"
        )),
        "[[2.0, 18.0], [1.0, 9.0], [[1.0], [3.0]]]"
    );
    assert_eq!(run("tensor([1.0, 3.0]).std(#{ unbiased: false }).item()"), "1.0");
    assert_eq!(run("[tensor([5.0]).var().item().is_nan(), tensor([5.0]).var(#{ unbiased: false }).item()]"), "[true, 0.0]");
    assert!(fails(&format!("{start} x.var(0, #{{ dim: 1 }})")).contains("given twice"));
}
