//! Tensors, autograd and modules as scripts use them, against PyTorch's numbers.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, missing_docs)]

mod script_engine;

use proptest::prelude::*;
use rhai::{Array, Dynamic, Map, Scope};
use script_engine::{engine, fails, run};
use serde_json::Value;

fn golden(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        other => vec![other.as_f64().unwrap()],
    }
}

fn script_numbers(value: &Dynamic) -> Vec<f64> {
    match value.read_lock::<Array>() {
        Some(items) => items.iter().flat_map(script_numbers).collect(),
        None => vec![value.as_float().unwrap_or_else(|_| value.as_int().unwrap() as f64)],
    }
}

fn close(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= tolerance * largest, "{what}: {found}, expected {expected}");
    }
}

#[test]
fn operations_have_pytorchs_values_and_gradients() {
    let all = golden(include_str!("golden/tensor_ops.json"));
    let calls = [
        ("mse_loss", "mse_loss(a, b)"),
        ("cross_entropy", "cross_entropy(logits, targets)"),
        ("cross_entropy_sum", "cross_entropy(logits, targets, #{ reduction: \"sum\" })"),
        ("kl_div", "kl_div(p_logits, q_logits)"),
        ("gelu", "gelu(x)"),
        ("gelu_tanh", "gelu(x, #{ approximate: \"tanh\" })"),
        ("silu", "x.silu()"),
        ("relu", "relu(x)"),
        ("tanh", "tanh(x)"),
        ("sigmoid", "x.sigmoid()"),
        ("softmax", "softmax(x, -1)"),
        ("softmax_dim0", "x.softmax(0)"),
        ("max_ties", "x.max()"),
        ("abs_at_zero", "x.abs()"),
        (
            "layer_norm",
            "let m = nn::LayerNorm(8); m.load_state_dict(#{ weight: weight, bias: bias }); let y = m.forward(x); wp = m.weight; bp = m.bias; y",
        ),
        (
            "rms_norm",
            "let m = nn::RMSNorm(8, #{ eps: 1e-5 }); m.load_state_dict(#{ weight: weight }); let y = m.forward(x); wp = m.weight; y",
        ),
    ];
    for (name, call) in calls {
        let case = &all[name];
        let mut script = String::from("let wp = (); let bp = ();\n");
        for (input, value) in case["inputs"].as_object().unwrap() {
            let graded = case["grad"].get(input).is_some();
            let given = if graded { ", #{ requires_grad: true }" } else { "" };
            script += &format!("let {input} = tensor({value}{given});\n");
        }
        script += &format!("let y = {{ {call} }};\n");
        match case.get("upstream") {
            Some(upstream) => script += &format!("(y * tensor({upstream})).sum().backward();\n"),
            None => script += "y.backward();\n",
        }
        script += "if wp != () { weight = wp; } if bp != () { bias = bp; }\n#{ value: y.to_list(), ";
        for input in case["grad"].as_object().unwrap().keys() {
            script += &format!("{input}: {input}.grad.to_list(), ");
        }
        script += "}";
        let found = engine().eval::<Map>(&script).unwrap_or_else(|error| panic!("{error}\n{script}"));
        close(&script_numbers(&found["value"]), &numbers(&case["value"]), 2e-6, name);
        for (input, gradient) in case["grad"].as_object().unwrap() {
            close(&script_numbers(&found[input.as_str()]), &numbers(gradient), 1e-5, &format!("{name}, gradient of {input}"));
        }
    }
}

const TINY_MODEL: &str = include_str!("script_engine/tiny_model.rhai");

#[test]
fn the_lessons_tiny_model_gives_pytorchs_numbers() {
    let all = golden(include_str!("golden/tiny_model.json"));
    let engine = engine();
    let ast = engine.compile(TINY_MODEL).unwrap();
    let mut best = std::time::Duration::MAX;
    for seed in [0, 1, 42] {
        let expected = &all[format!("seed {seed}")];
        let started = std::time::Instant::now();
        let mut scope = Scope::new();
        scope.push("seed", i64::from(seed));
        let found = engine.eval_ast_with_scope::<Map>(&mut scope, &ast).unwrap();
        best = best.min(started.elapsed());
        close(&script_numbers(&found["x_a"]), &numbers(&expected["first_x_of_task_a"]), 1e-6, "first x of task a");
        close(&script_numbers(&found["x_b"]), &numbers(&expected["first_x_of_task_b"]), 1e-6, "first x of task b");
        close(&script_numbers(&found["phase1"]), &numbers(&expected["phase1_losses"]), 1e-5, "phase 1");
        close(&script_numbers(&found["phase2"])[..100], &numbers(&expected["phase2_losses_first_100"]), 1e-4, "phase 2");
        close(&script_numbers(&found["head_a"]), &numbers(&expected["final_head_a"]), 1e-4, "head a");
        let printed: Vec<String> = found["printed"].clone().into_typed_array::<String>().unwrap();
        let lines: Vec<&str> = expected["printed"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
        let wanted: Vec<f64> =
            lines.iter().map(|line| line.split(": ").nth(1).unwrap().trim_end_matches("x worse").parse().unwrap()).collect();
        assert_eq!(format!("{:.4}", printed[0].parse::<f64>().unwrap()), format!("{:.4}", wanted[0]));
        assert_eq!(format!("{:.4}", printed[1].parse::<f64>().unwrap()), format!("{:.4}", wanted[1]));
        assert_eq!(format!("{:.1}", printed[2].parse::<f64>().unwrap()), format!("{:.1}", wanted[2]));
    }
    println!("the tiny model's 2600 steps: {best:?}");
    assert!(cfg!(debug_assertions) || best.as_secs_f64() < 1.0, "{best:?}");
}

#[test]
fn the_lessons_second_snippet_forgets_task_a() {
    let script = r#"
        let w = tensor(1.0, #{ requires_grad: true });
        fn task_a_loss(w) { (w - 1.0) ** 2 }
        fn task_b_loss(w) { (w + 2.0) ** 2 }
        let optimizer = optim::SGD([w], #{ lr: 0.5 });
        for step in 0..10 { task_b_loss(w).backward(); optimizer.step(); optimizer.zero_grad(); }
        `w: ${w.item()}  A: ${task_a_loss(w).item()}  B: ${task_b_loss(w).item()}`"#;
    assert_eq!(run(script), "w: -2.0  A: 9.0  B: 0.0");
}

#[test]
fn every_example_in_the_documentation_holds() {
    let engine = engine();
    let metadata = golden(&engine.gen_fn_metadata_to_json(false).unwrap());
    let mut documented = 0;
    let mut with_example: std::collections::BTreeMap<String, bool> = Default::default();
    let mut functions: Vec<Value> = metadata["functions"].as_array().unwrap().clone();
    for module in metadata["modules"].as_object().unwrap().values() {
        functions.extend(module["functions"].as_array().unwrap().clone());
    }
    for function in &functions {
        let lines = function["docComments"].as_array().unwrap_or_else(|| panic!("no documentation: {}", function["signature"]));
        let lines = lines.iter().flat_map(|block| block.as_str().unwrap().lines());
        let text = lines.map(|line| line.trim().trim_start_matches("///").trim()).collect::<Vec<_>>().join("\n");
        let name = function["name"].as_str().unwrap();
        *with_example.entry(name.to_string()).or_default() |= text.contains("```rhai");
        let Some(example) = text.split("```rhai").nth(1).and_then(|rest| rest.split("```").next()) else { continue };
        let mut scope = Scope::new();
        let mut pending = String::new();
        for line in example.lines() {
            let (code, expected) = line.split_once("// =>").map_or((line, None), |(code, result)| (code, Some(result.trim())));
            pending += code;
            pending.push('\n');
            if let Some(expected) = expected {
                let value =
                    engine.eval_with_scope::<Dynamic>(&mut scope, &pending).unwrap_or_else(|e| panic!("{e} in {pending}"));
                let mut shown = Scope::new();
                shown.push_dynamic("it", value);
                let shown = engine.eval_with_scope::<String>(&mut shown, "it.to_debug()").unwrap();
                assert_eq!(shown, expected, "{pending}");
                pending.clear();
                documented += 1;
            }
        }
    }
    assert!(documented > 80, "{documented} examples");
    with_example
        .retain(|name, has| !*has && !["set$", "index$", "to_string", "to_debug"].iter().any(|start| name.starts_with(start)));
    assert!(with_example.is_empty(), "no example: {:?}", with_example.keys());
}

#[test]
fn autograd_has_pytorchs_habits() {
    assert_eq!(run("let w = tensor(2.0, #{ requires_grad: true }); w.grad"), "");
    assert_eq!(run("let w = tensor(2.0, #{ requires_grad: true }); (w*w).backward(); (w*w).backward(); w.grad.item()"), "8.0");
    assert_eq!(run("let w = tensor(2.0, #{ requires_grad: true }); (w*0).backward(); w.grad.item()"), "0.0");
    assert_eq!(run("let w = tensor(0.0, #{ requires_grad: true }); (w**0).backward(); w.grad.item()"), "0.0");
    assert_eq!(run("let w = tensor([0.0, 0.0], #{ requires_grad: true }); w.norm().backward(); w.grad.to_list()"), "[0.0, 0.0]");
    assert_eq!(run("let w = tensor(2.0, #{ requires_grad: true }); (w*w).backward(); w.grad = (); w.grad"), "");
    assert_eq!(
        run("let w = tensor([[1.0,2.0]], #{ requires_grad: true }); (w.t().matmul(w)).sum().backward(); w.grad.to_list()"),
        "[[6.0, 6.0]]"
    );
    // No gradient on the bounds, as PyTorch has had it since 2.14: before, it passed there.
    for (bounds, expected) in [
        ("0.0, 1.0", "[0.0, 0.0, 1.0, 0.0, 0.0, 0.0]"),
        ("(), 1.0", "[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]"),
        ("0.0, ()", "[0.0, 0.0, 1.0, 1.0, 1.0, 0.0]"),
        ("2, 1", "[0.0, 0.0, 0.0, 0.0, 0.0, 0.0]"),
    ] {
        let script = format!(
            "let w = tensor([-1.0, 0.0, 0.5, 1.0, 2.0, 0.0 / 0.0], #{{ requires_grad: true }});
             w.clamp({bounds}).sum().backward(); w.grad.to_list()"
        );
        assert_eq!(run(&script), expected, "{bounds}");
    }
    assert_eq!(run("[tensor([1, 5]).clamp(2, 1).to_list(), tensor([1, 5]).clamp(1.5, ()).to_list()]"), "[[1, 1], [1.5, 5.0]]");
    assert_eq!(run("let w = tensor([1.0,3.0], #{ requires_grad: true }); w[-1].backward(); w.grad.to_list()"), "[0.0, 1.0]");
    assert_eq!(
        run("let w = tensor([1.0,3.0], #{ requires_grad: true }); w.to(\"bf16\").sum().backward(); w.grad.to_list()"),
        "[1.0, 1.0]"
    );
    assert_eq!(run("let m = nn::Linear(2, 1); let y = no_grad(|| m.forward(ones([2]))); y.requires_grad"), "false");
    assert!(fails("tensor([1.0, 2.0], #{ requires_grad: true }).backward()").contains("scalar"));
    assert!(fails("tensor(1.0).backward()").contains("requires_grad"));
    assert!(fails("tensor(1, #{ requires_grad: true })").contains("floating-point"));
}

#[test]
fn modules_behave_as_in_pytorch() {
    let module = "let m = nn::Module(#{ shared: nn::Linear(2, 3), parts: [nn::Linear(3, 1)], scale: tensor(1.0, #{ requires_grad: true }) }, |m, x| m.parts[0].forward(relu(m.shared.forward(x))) * m.scale);";
    let ask = |rest: &str| run(&format!("{module} {rest}"));
    assert_eq!(
        ask("m.named_parameters().keys()"),
        r#"["parts.0.bias", "parts.0.weight", "scale", "shared.bias", "shared.weight"]"#
    );
    assert_eq!(ask("m.forward(ones([4, 2])).shape"), "[4, 1]");
    assert_eq!(ask("m.forward(ones([4, 2])).sum().backward(); m.zero_grad(); m.scale.grad"), "");
    assert_eq!(ask("m.eval(); m.training"), "false");
    assert_eq!(ask("m.requires_grad(false); m.forward(ones([2])).requires_grad"), "false");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let script = format!(
        "let x = ones([2]); let a = m.forward(x); m.save({path:?}); for p in m.parameters() {{ p.requires_grad = false; }} let n = nn::Linear(2, 3); m.load({path:?}); m.forward(x) == a"
    );
    assert_eq!(ask(&script), "true");
    let error = fails(&format!("{module} m.load_state_dict(#{{ scale: tensor([1.0]), odd: tensor(1.0) }})"));
    assert!(
        error.contains("missing keys: parts.0.weight")
            && error.contains("unexpected keys: odd")
            && error.contains("scale has shape"),
        "{error}"
    );
    assert!(fails("nn::Linear(2, 3).forward(ones([5]))").contains("[.., 2]"));
    assert!(fails(&format!("{module} m.nothing.forward(1)")).contains("nothing"));
}

#[test]
fn operators_and_loops_read_as_in_pytorch() {
    assert_eq!(run("(tensor([[1.0, 2.0]]) @ tensor([[3.0], [4.0]])).item()"), "11.0");
    assert_eq!(run("let all = []; for row in tensor([[1, 2], [3, 4]]) { all.push(row.sum().item()); } all"), "[3, 7]");
    assert_eq!(run("\"x = \" + tensor([1.0])"), "x = tensor([1.])");
    assert_eq!(run("tensor(5).item() + tensor([2.5]).item()"), "7.5");
    assert_eq!(
        run("let x = arange(0, 10); [x.dtype, x[2..4].to_list(), x[-3..10].to_list(), (x * 2.0).dtype, (x / 2).dtype]"),
        r#"["i64", [2, 3], [7, 8, 9], "f32", "f32"]"#
    );
    assert_eq!(run("(ones([2], #{ dtype: \"bf16\" }) * tensor(2.0)).dtype"), "bf16");
    assert_eq!(run("tensor([3, 4]) == tensor([3, 4]) && tensor(0.1) < 0.2 && !(tensor(1.0) == tensor(2.0))"), "true");
    assert_eq!(
        run("let m = tensor([[1.0, 5.0], [7.0, 3.0]]).max(1); [m.values.to_list(), m.indices.to_list()]"),
        "[[5.0, 7.0], [1, 0]]"
    );
    assert_eq!(run("ones([2, 3]).sum(1, #{ keepdim: true }).shape"), "[2, 1]");
    assert_eq!(run("tensor([1.0, 2.0, 4.0]).std().item() - 1.5275252 < 1e-6"), "true");
}

#[test]
fn errors_say_what_to_do() {
    assert!(fails("ones([3]) + ones([4])").contains("size of tensor a (3)"));
    assert!(fails("ones([2, 3]).matmul(ones([2, 3]))").contains("inner sizes"));
    assert!(fails("ones([3]).item()").contains("one element"));
    assert!(fails("ones([3])[3]").contains("out of range"));
    assert!(fails("tensor([[1, 2], [3]])").contains("expected 2 elements"));
    assert!(fails("zeros([100000, 100000, 100000])").contains("too large"));
    assert!(fails("ones([3]).to(\"f33\")").contains("unknown dtype"));
    if !cfg!(feature = "cuda") {
        assert!(fails("ones([3]).to(\"cuda\")").contains("not in this build"));
    }
    assert!(fails("nn::Embedding(3, 2).forward([3])").contains("out of range"));
    assert!(fails("cross_entropy(ones([1, 3]), tensor([7]))").contains("target 7"));
    assert!(fails("zeros([0]).max()").contains("empty"));
    assert!(fails("cat([nn::ReLU()])").contains("is no tensor but Module"));
    assert_eq!(
        run("[type_of(zeros([1])), type_of(nn::ReLU()), type_of(optim::SGD(nn::Linear(1, 1).parameters()))]"),
        r#"["Tensor", "Module", "Optimizer"]"#
    );
}

fn shape() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0usize..4, 0..4)
}

fn full_shape() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1usize..4, 0..4)
}

fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |s: &[usize], d: usize| if d + s.len() < rank { 1 } else { s[d + s.len() - rank] };
    (0..rank)
        .map(|d| match (at(a, d), at(b, d)) {
            (x, y) if x == y => Some(x),
            (1, y) => Some(y),
            (x, 1) => Some(x),
            _ => None,
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn broadcasting_never_panics(a in full_shape(), b in full_shape(), operator in prop::sample::select(vec!["+", "-", "*", "/"])) {
        let script = format!("let a = ones({a:?}, #{{ requires_grad: true }}); let b = ones({b:?}, #{{ requires_grad: true }}); let y = a {operator} b; y.sum().backward(); [y.shape, a.grad.shape]");
        match (engine().eval::<Array>(&script), broadcast(&a, &b)) {
            (Ok(found), Some(shape)) => {
                prop_assert_eq!(found[0].to_string(), format!("{shape:?}"));
                prop_assert_eq!(found[1].to_string(), format!("{a:?}"));
            }
            (Err(_), None) => {}
            (found, expected) => prop_assert!(false, "{a:?} {b:?}: {found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn any_shape_is_answered_or_refused(a in shape(), b in shape(), dim in -4i64..4, call in prop::sample::select(vec![
        "a.matmul(b)", "a.sum(d)", "a.mean(d)", "a.max(d)", "a.argmin(d)", "a.softmax(d)", "a.log_softmax(d)", "a.std()", "a.var(d)", "a.norm()",
        "a.transpose(d, 0)", "a.t()", "cat([a, b], d)", "stack([a, b], d)", "a.squeeze(d)", "a.unsqueeze(d)", "a[d]", "a[d..2]", "a.reshape(b.shape)",
        "mse_loss(a, b)", "kl_div(a, b)", "cross_entropy(a, b)", "cross_entropy(a, b.to(\"i64\"))", "a.max()", "a.flatten()", "a.to_list()", "`${a}`", "a < b",
        "allclose(a, b)", "maximum(a, b)", "nn::Linear(2, 3).forward(a)", "nn::LayerNorm(2).forward(a)", "nn::Embedding(3, 2).forward(a.to(\"i64\"))", "a.clamp(0, d)", "a ** b", "a ** d",
    ])) {
        // Both outcomes are fine; a panic is not.
        let script = format!("let d = {dim}; let a = ones({a:?}, #{{ requires_grad: true }}); let b = ones({b:?}); let y = {call}; if type_of(y) == \"Tensor\" && y.requires_grad {{ y.sum().backward(); a.grad }}");
        let _ = engine().eval::<Dynamic>(&script);
    }
}
