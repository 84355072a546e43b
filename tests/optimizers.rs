//! Optimisers, schedules and clipping as scripts use them, against PyTorch's numbers.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, missing_docs)]

mod script_engine;

use candle_core::{DType, Device, Tensor};
use ftrepl::nn::{self, Parameter};
use ftrepl::optim::{
    self, Adam, AdamWOptions, Optimizer, ParamGroup, Schedule, ScheduleOptions, Scheduler, Sgd, SgdOptions, check_gradients,
};
use rhai::{Array, Dynamic};
use script_engine::{engine, fails, run};
use serde_json::Value;

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/tensor_ops.json")).unwrap()
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

fn rhai_map(options: &Value) -> String {
    let fields: Vec<String> = options.as_object().unwrap().iter().map(|(name, value)| format!("{name}: {value}")).collect();
    format!("#{{ {} }}", fields.join(", "))
}

#[test]
fn steps_are_pytorchs() {
    let all = golden();
    let cases = all["optimizers"].as_array().unwrap();
    let problem = &cases[0];
    for case in &cases[1..] {
        let script = format!(
            "let c = tensor({}); let t = tensor({}); let d = tensor({}); let s = tensor({});
             let p = tensor({}, #{{ requires_grad: true }}); let q = tensor({}, #{{ requires_grad: true }});
             let optimizer = optim::{}([p, q], {});
             let steps = [];
             for step in 1..6 {{
                 optimizer.zero_grad();
                 let loss = (c * (p - t) ** 2).sum();
                 if !({} && (step == 2 || step == 4)) {{ loss += (d * (q - s) ** 2).sum(); }}
                 loss.backward();
                 optimizer.step();
                 steps.push([loss.item(), p.to_list(), q.to_list()]);
             }}
             steps",
            problem["c"],
            problem["t"],
            problem["d"],
            problem["s"],
            problem["p0"],
            problem["q0"],
            case["optimizer"].as_str().unwrap(),
            rhai_map(&case["options"]),
            case["q_skipped"],
        );
        let found = engine().eval::<Array>(&script).unwrap_or_else(|error| panic!("{error}\n{script}"));
        for (at, (found, expected)) in found.iter().zip(case["steps"].as_array().unwrap()).enumerate() {
            let expected: Vec<f64> = ["loss", "p", "q"].iter().flat_map(|key| numbers(&expected[*key])).collect();
            for (found, expected) in script_numbers(found).iter().zip(&expected) {
                assert!(
                    (found - expected).abs() < 3e-6 * expected.abs().max(1.0),
                    "{} {} step {at}: {found} {expected}",
                    case["optimizer"],
                    case["options"]
                );
            }
        }
    }
}

#[test]
fn schedules_are_those_of_transformers() {
    for case in golden()["schedulers"].as_array().unwrap() {
        let script = format!(
            "let o = optim::SGD([tensor(0.0, #{{ requires_grad: true }})], #{{ lr: 0.01 }});
             let s = get_scheduler({}, o, #{{ num_warmup_steps: {}, num_training_steps: {} }});
             let rates = [s.get_last_lr()[0]];
             for i in 0..20 {{ o.step(); s.step(); rates.push(o.lr); }}
             rates",
            case["name"], case["num_warmup_steps"], case["num_training_steps"],
        );
        let found = engine().eval::<Array>(&script).unwrap();
        for (found, expected) in found.iter().zip(numbers(&case["lr"])) {
            assert!((found.as_float().unwrap() - expected).abs() < 1e-12, "{}: {found} {expected}", case["name"]);
        }
    }
}

#[test]
fn clipping_is_pytorchs() {
    for case in golden()["clip_grad_norm"].as_array().unwrap() {
        let grads = case["grads"].as_array().unwrap();
        let script = format!(
            "let a = zeros([3], #{{ requires_grad: true }}); let b = zeros([2, 2], #{{ requires_grad: true }}); let c = zeros([2], #{{ requires_grad: true }});
             a.grad = tensor({}); b.grad = tensor({});
             let norm = clip_grad_norm([a, b, c], {});
             [norm, a.grad.to_list(), b.grad.to_list()]",
            grads[0], grads[1], case["max_norm"],
        );
        let found = script_numbers(&engine().eval::<Dynamic>(&script).unwrap());
        let expected: Vec<f64> = numbers(&case["norm"]).into_iter().chain(numbers(&case["clipped"])).collect();
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-6 * expected.abs().max(1.0), "{found} {expected}");
        }
    }
}

#[test]
fn wrong_settings_are_refused_in_words() {
    let w = "let w = tensor(1.0, #{ requires_grad: true });";
    let nan = SgdOptions { lr: f64::NAN, ..Default::default() }.validate().unwrap_err().to_string();
    assert_eq!(nan, "learning rate must be a finite number >= 0, got NaN");
    let _ = fails(&format!("{w} optim::SGD([w], #{{ lr: 0.0/0.0 }})"));
    assert!(fails(&format!("{w} optim::AdamW([w], #{{ lr: -1 }})")).contains("got -1"));
    assert!(fails(&format!("{w} optim::Adam([w], #{{ betas: [1.0, 0.9] }})")).contains("betas[0]"));
    assert!(fails(&format!("{w} optim::SGD([w], #{{ nesterov: true }})")).contains("momentum"));
    assert!(fails(&format!("{w} optim::SGD([w], #{{ rate: 0.1 }})")).contains("rate"));
    assert!(fails(&format!("{w} optim::SGD([w, w])")).contains("twice"));
    assert!(fails("optim::SGD([])").contains("no parameters"));
    assert!(fails("optim::SGD([tensor(1.0)])").contains("requires_grad: true"));
    assert!(fails(&format!("{w} optim::SGD([w * 2.0])")).contains("computed"));
    assert!(fails(&format!("{w} let o = optim::SGD([w]); o.lr = -0.5;")).contains("-0.5"));
    assert!(fails(&format!("{w} get_scheduler(\"quadratic\", optim::SGD([w]))")).contains("constant_with_warmup"));
    assert!(fails(&format!("{w} get_scheduler(\"linear\", optim::SGD([w]))")).contains("num_training_steps"));
}

#[test]
fn groups_have_settings_of_their_own() {
    let script = "let a = tensor(1.0, #{ requires_grad: true }); let b = tensor(1.0, #{ requires_grad: true });
        let o = optim::SGD([#{ params: [a], lr: 0.2 }, #{ params: [b], weight_decay: 1.0 }], #{ lr: 0.1 });
        (a + b).backward(); o.step(); [a.item(), b.item()]";
    let found = script_numbers(&engine().eval::<Dynamic>(script).unwrap());
    assert!((found[0] - 0.8).abs() < 1e-6 && (found[1] - 0.8).abs() < 1e-6, "{found:?}");
}

fn gradient(parameter: &Parameter, seed: usize) {
    parameter.zero_grad();
    let values: Vec<f32> =
        (0..parameter.elem_count()).map(|at| (((at * 7919 + seed * 104_729) % 1000) as f32 / 500.0) - 1.0).collect();
    parameter.accumulate(&Tensor::from_vec(values, parameter.dims(), &Device::Cpu).unwrap()).unwrap();
}

#[test]
fn a_restored_state_continues_bit_for_bit() {
    let start: Vec<f32> = (0..40_000).map(|at| (at % 17) as f32 / 17.0).collect();
    let make = || Parameter::from_vec(start.clone(), &[200, 200], &Device::Cpu).unwrap();
    for half in [false, true] {
        let build: fn(Parameter) -> Box<dyn Optimizer> =
            |p| Box::new(Adam::adamw(vec![ParamGroup::new(vec![p])], AdamWOptions::default()).unwrap());
        let build_sgd: fn(Parameter) -> Box<dyn Optimizer> =
            |p| Box::new(Sgd::new(vec![ParamGroup::new(vec![p])], SgdOptions { momentum: 0.9, ..Default::default() }).unwrap());
        for build in [build, build_sgd] {
            let (one, two) = (make(), make());
            if half {
                one.set_dtype(DType::BF16).unwrap();
                two.set_dtype(DType::BF16).unwrap();
            }
            let (mut whole, mut first) = (build(one.clone()), build(two.clone()));
            for step in 0..3 {
                for (parameter, optimizer) in [(&one, &mut whole), (&two, &mut first)] {
                    gradient(parameter, step);
                    optimizer.step().unwrap();
                }
            }
            let mut second = build(two.clone());
            second.load_state_dict(&first.state_dict().unwrap()).unwrap();
            for step in 3..6 {
                for (parameter, optimizer) in [(&one, &mut whole), (&two, &mut second)] {
                    gradient(parameter, step);
                    optimizer.step().unwrap();
                }
            }
            let values = |p: &Parameter| p.value().to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(values(&one), values(&two));
            assert_ne!(values(&one), start);
        }
    }
}

#[test]
fn a_state_without_the_number_of_steps_is_refused() {
    for made in ["AdamW([w])", "AdamW8bit([w], #{ min_8bit_size: 1 })", "Adafactor([w])", "SGD([w], #{ momentum: 0.9 })"] {
        let script = format!(
            "let w = ones([3], #{{ requires_grad: true }}); let o = optim::{made}; w.sum().backward(); o.step();
             let s = o.state_dict(); o.load_state_dict(s); s.remove(\"state.0.step\"); o.load_state_dict(s)"
        );
        let message = fails(&script);
        assert!(message.contains("lacks \"state.0.step\""), "{made}: {message}");
    }
}

#[test]
fn a_schedule_takes_only_counts_and_stays_where_it_was_otherwise() {
    let parameter = Parameter::new(&Tensor::ones(1, DType::F32, &Device::Cpu).unwrap()).unwrap();
    let mut sgd = Sgd::new(vec![ParamGroup::new(vec![parameter])], SgdOptions { lr: 0.1, ..Default::default() }).unwrap();
    let mut schedule = Scheduler::new(Schedule::ReduceLrOnPlateau, ScheduleOptions::default(), &mut sgd, 0, Some(10)).unwrap();
    schedule.step_with(1.0, &mut sgd).unwrap();
    let state = schedule.state_dict().unwrap();
    let before: Vec<f64> = state.values().map(|value| value.to_scalar().unwrap()).collect();
    for (name, wrong) in [("last_epoch", -1.0), ("num_bad_epochs", 0.5), ("cooldown_counter", f64::NAN)] {
        let mut other = state.clone();
        other.insert("lr".into(), Tensor::new(7.0, &Device::Cpu).unwrap());
        other.insert(name.into(), Tensor::new(wrong, &Device::Cpu).unwrap());
        let message = schedule.load_state_dict(&other, &mut sgd).unwrap_err().to_string();
        assert!(message.contains(name) && message.contains("a whole number >= 0"), "{message}");
        let after: Vec<f64> = schedule.state_dict().unwrap().values().map(|value| value.to_scalar().unwrap()).collect();
        assert_eq!((after, sgd.lr()), (before.clone(), 0.1), "{name}");
    }
    schedule.load_state_dict(&state, &mut sgd).unwrap();
}

#[test]
fn small_updates_of_bf16_parameters_are_not_lost() {
    let parameter = Parameter::new(&Tensor::ones(4, DType::BF16, &Device::Cpu).unwrap()).unwrap();
    let mut sgd =
        Sgd::new(vec![ParamGroup::new(vec![parameter.clone()])], SgdOptions { lr: 1e-4, ..Default::default() }).unwrap();
    for _ in 0..100 {
        parameter.zero_grad();
        parameter.accumulate(&Tensor::ones(4, DType::F32, &Device::Cpu).unwrap()).unwrap();
        sgd.step().unwrap();
    }
    let value = parameter.value().to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap()[0];
    assert!((value - 0.99).abs() < 0.004, "{value}");
}

#[test]
fn missing_and_broken_gradients_are_named() {
    let make = || Parameter::from_vec(vec![1.0], &[1], &Device::Cpu).unwrap();
    let (good, missing, broken, frozen) = (make(), make(), make(), make());
    frozen.set_requires_grad(false);
    gradient(&good, 1);
    broken.accumulate(&Tensor::new(&[f32::NAN], &Device::Cpu).unwrap()).unwrap();
    let named: Vec<(String, Parameter)> = [("good", good.clone()), ("missing", missing), ("broken", broken), ("frozen", frozen)]
        .map(|(n, p)| (n.to_string(), p))
        .into();
    let message = check_gradients(&named).unwrap_err().to_string();
    assert!(
        message.contains("reached missing:") && message.contains("infinite in broken:") && !message.contains("good"),
        "{message}"
    );
    assert!(check_gradients(&named[..1]).is_ok());
}

#[test]
fn a_step_of_a_large_parameter_is_quick() {
    let parameter = Parameter::from_vec(vec![0.5; 4_000_000], &[2000, 2000], &Device::Cpu).unwrap();
    gradient(&parameter, 1);
    let mut adam = Adam::adamw(vec![ParamGroup::new(vec![parameter.clone()])], AdamWOptions::default()).unwrap();
    adam.step().unwrap();
    let started = std::time::Instant::now();
    for _ in 0..5 {
        adam.step().unwrap();
        optim::clip_grad_norm(std::slice::from_ref(&parameter), 1.0).unwrap();
    }
    println!("AdamW and clipping, 4 million parameters: {:?} a step", started.elapsed() / 5);
    assert!(nn::grad_enabled());
    assert_eq!(run("1 + 1"), "2");
}

/// What three steps on a small problem make of the parameters p and q.
fn after_three_steps(optimizer: &str) -> Vec<f64> {
    let script = format!(
        "let p = tensor([1.0, -2.0], #{{ requires_grad: true }}); let q = tensor([0.5], #{{ requires_grad: true }});
         let o = {optimizer};
         for step in 0..3 {{ o.zero_grad(); ((p * p).sum() * 0.5 + (q * 3).sum() + (q * q).sum()).backward(); o.step(); }}
         [p.to_list(), q.to_list()]"
    );
    script_numbers(&engine().eval::<Dynamic>(&script).unwrap_or_else(|error| panic!("{error}\n{script}")))
}

#[test]
fn groups_have_settings_of_their_own_and_gradients_can_be_gone_up() {
    // Expected: torch 2.14.
    for (optimizer, expected) in [
        (
            "optim::Adam([#{ params: [p], betas: [0.5, 0.7], eps: 0.1 }, #{ params: [q], lr: 0.2 }], #{ lr: 0.1 })",
            [0.7315745, -1.7160972, -0.0968274],
        ),
        (
            "optim::AdamW([#{ params: [p], betas: [0.5, 0.7] }, #{ params: [q], eps: 0.5 }], #{ lr: 0.1, maximize: true, weight_decay: 0.1 })",
            [1.2692596, -2.238591, 0.7500424],
        ),
        ("optim::SGD([#{ params: [p], momentum: 0.5 }, #{ params: [q] }], #{ lr: 0.1, momentum: 0.9 })", [0.614, -1.228, -1.376]),
        (
            "optim::SGD([#{ params: [p], momentum: 0.5 }, #{ params: [q], momentum: 0 }], #{ lr: 0.1, maximize: true, weight_decay: 0.1 })",
            [1.415629, -2.8312581, 1.9244094],
        ),
        ("optim::Adam([p, q], #{ lr: 0.1, maximize: true, weight_decay: 0.1 })", [1.30049, -2.3003523, 0.8003433]),
    ] {
        let found = after_three_steps(optimizer);
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 3e-6, "{optimizer}: {found} {expected}");
        }
    }
    let refused = |group: &str, optimizer: &str| {
        fails(&format!("optim::{optimizer}([#{{ params: [tensor(1.0, #{{ requires_grad: true }})], {group} }}], #{{ lr: 0.1 }})"))
    };
    assert!(refused("betas: [0.5, 1.0]", "AdamW").contains("betas[1] of a group"));
    assert!(refused("betas: 0.5", "AdamW").contains("two numbers"));
    assert!(refused("momentum: 0.5", "AdamW").contains("there are params, lr, weight_decay, betas, eps"));
    assert!(refused("betas: [0.5, 0.5]", "SGD").contains("there are params, lr, weight_decay, momentum"));
    assert!(refused("momentum: 1.5", "SGD").contains("momentum of a group"));
}

#[test]
fn gradients_are_clipped_by_other_norms() {
    let data = "let a = tensor([3.0, -4.0], #{ requires_grad: true }); let b = tensor([1.0, 0.0], #{ requires_grad: true });
        ((a * a).sum() / 2 + (b * b).sum() / 2).backward();";
    for (order, norm, clipped) in [
        ("1", 8.0, [0.375, -0.5, 0.125, 0.0]),
        ("3", 4.514357566833496, [0.664546251, -0.886061668, 0.221515417, 0.0]),
        ("0.5", 22.392305374145508, [0.133974582, -0.178632781, 0.044658195, 0.0]),
        ("\"inf\"", 4.0, [0.75, -1.0, 0.25, 0.0]),
        ("1.0 / 0.0", 4.0, [0.75, -1.0, 0.25, 0.0]),
        ("\"-inf\"", 0.0, [3.0, -4.0, 1.0, 0.0]),
        ("0", 2.0, [1.5, -2.0, 0.5, 0.0]),
        ("#{ norm_type: 1 }", 8.0, [0.375, -0.5, 0.125, 0.0]),
        ("2.0", 5.099019527435303, [0.588348329, -0.784464419, 0.196116105, 0.0]),
    ] {
        let script = format!("{data} [clip_grad_norm_([a, b], 1.0, {order}), a.grad.to_list(), b.grad.to_list()]");
        let found = script_numbers(&engine().eval::<Dynamic>(&script).unwrap_or_else(|error| panic!("{error}\n{script}")));
        for (found, expected) in found.iter().zip(std::iter::once(norm).chain(clipped)) {
            assert!((found - expected).abs() < 2e-6 * expected.abs().max(1.0), "{order}: {found} {expected}");
        }
    }
    let broken = format!("{data} a.grad = tensor([1.0 / 0.0, 0.0]);");
    assert!(
        fails(&format!("{broken} clip_grad_norm([a], 1.0, #{{ error_if_nonfinite: true }})"))
            .contains("norm of the gradients is inf")
    );
    assert_eq!(run(&format!("{broken} clip_grad_norm([a], 1.0).is_infinite()")), "true");
    assert!(fails("clip_grad_norm([], 1.0, \"nuc\")").contains("\"inf\""));
}

#[test]
fn schedules_are_saved_and_continued_by_scripts() {
    let start = "let w = tensor(1.0, #{ requires_grad: true });
        let made = || { let o = optim::SGD([#{ params: [w] }], #{ lr: 0.8 }); [o, get_scheduler(\"linear\", o, #{ num_training_steps: 8 })] };
        let first = made.call(); for step in 0..3 { first[1].step(); }
        let second = made.call();";
    assert_eq!(
        run(&format!(
            "{start} second[1].load_state_dict(first[1].state_dict()); second[1].step(); [second[0].lr, second[1].get_last_lr()]"
        )),
        "[0.4, [0.4]]"
    );
    assert_eq!(run(&format!("{start} second[1].load_state_dict(#{{ last_epoch: 6 }}); second[0].lr")), "0.2");
    assert_eq!(run(&format!("{start} first[1].state_dict().last_epoch == 3")), "true");
    assert!(fails(&format!("{start} second[1].load_state_dict(#{{ epoch: 6 }})")).contains("lacks \"last_epoch\""));
    // Each group has its own rate.
    let groups = "let a = tensor(1.0, #{ requires_grad: true }); let b = tensor(1.0, #{ requires_grad: true });
        let o = optim::AdamW([#{ params: [a] }, #{ params: [b], lr: 0.2 }], #{ lr: 0.4 });
        let s = get_scheduler(\"linear\", o, #{ num_training_steps: 4 }); s.step(); s.step(); s.get_last_lr()";
    assert_eq!(run(groups), "[0.2, 0.1]");
}
