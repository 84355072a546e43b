//! Lion, Adafactor, Muon, schedule-free and 8-bit AdamW, the schedules and the average of weights against their authors' numbers; and what
//! holds for every optimiser: a restored state goes on bit for bit, and the number of threads changes no bit.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, missing_docs)]

mod script_engine;

use candle_core::{DType, Device, Tensor};
use ftrepl::nn::Parameter;
use ftrepl::optim::{
    Adafactor, Adam, AdamW8bit, AdamW8bitOptions, AdamWScheduleFree, Ema, Lion, Muon, Optimizer, ParamGroup, ScheduleFreeOptions,
    Sgd,
};
use rhai::Array;
use script_engine::{engine, fails};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;

struct Golden {
    facts: Value,
    tensors: HashMap<String, Tensor>,
}

impl Golden {
    fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/optimizers.safetensors");
        let facts = serde_json::from_str(include_str!("golden/optimizers.json")).unwrap();
        Self { facts, tensors: candle_core::safetensors::load(path, &Device::Cpu).unwrap() }
    }

    fn parameter(&self, name: &str) -> Parameter {
        Parameter::new(&self.tensors[&format!("start.{name}")].copy().unwrap()).unwrap()
    }

    fn set_gradient(&self, name: &str, parameter: &Parameter, step: usize) {
        parameter.zero_grad();
        parameter.accumulate(&self.tensors[&format!("gradients.{name}")].get(step - 1).unwrap()).unwrap();
    }

    fn noted(&self) -> Vec<usize> {
        self.facts["noted"].as_array().unwrap().iter().map(|step| step.as_u64().unwrap() as usize).collect()
    }

    /// Compares with the parameter that was noted; whether it was.
    fn compare(&self, name: &str, found: &Parameter, tolerance: f32, worst: &mut f32) -> bool {
        let Some(expected) = self.tensors.get(name) else { return false };
        for (at, (a, b)) in elements(&found.value()).iter().zip(&elements(expected)).enumerate() {
            let apart = (a - b).abs() / b.abs().max(1.0);
            *worst = worst.max(apart);
            assert!(apart <= tolerance, "{name}[{at}]: {a} {b}");
        }
        true
    }
}

fn elements(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn build(kind: &str, options: Value, parameters: &[Parameter]) -> Box<dyn Optimizer> {
    let groups = vec![ParamGroup::new(parameters.to_vec())];
    macro_rules! made {
        ($make:path) => {
            Box::new($make(groups, serde_json::from_value(options).unwrap()).unwrap())
        };
    }
    match kind {
        "SGD" => made!(Sgd::new),
        "AdamW" => made!(Adam::adamw),
        "Lion" => made!(Lion::new),
        "Adafactor" => made!(Adafactor::new),
        "Muon" => made!(Muon::new),
        "AdamWScheduleFree" => made!(AdamWScheduleFree::new),
        "AdamW8bit" => made!(AdamW8bit::new),
        other => panic!("{other}"),
    }
}

#[test]
fn steps_are_those_of_the_authors() {
    let golden = Golden::read();
    for case in golden.facts["optimizers"].as_array().unwrap() {
        let (kind, label) = (case["optimizer"].as_str().unwrap(), case["label"].as_str().unwrap());
        let names: Vec<&str> = case["parameters"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        let parameters: Vec<Parameter> = names.iter().map(|name| golden.parameter(name)).collect();
        let mut optimizer = build(kind, case["options"].clone(), &parameters);
        let tolerance = 1e-6;
        let mut worst = 0.0;
        optimizer.train_mode().unwrap();
        for step in 1..=20 {
            for (name, parameter) in names.iter().zip(&parameters) {
                golden.set_gradient(name, parameter, step);
            }
            optimizer.step().unwrap();
            if !golden.noted().contains(&step) {
                continue;
            }
            let noted = |name: &str| name != "large" || step == 20;
            for (name, parameter) in names.iter().zip(&parameters) {
                let compared = golden.compare(&format!("{label}.{step}.{name}"), parameter, tolerance, &mut worst);
                // torch's own Muon computes in bf16, which has three digits.
                let in_bf16 = golden.compare(&format!("{label}_bf16.{step}.{name}"), parameter, 2e-3, &mut 0.0);
                assert_eq!((compared, in_bf16), (noted(name), noted(name) && kind == "Muon"), "{label}.{step}.{name}");
            }
            optimizer.eval_mode().unwrap();
            for (name, parameter) in names.iter().zip(&parameters) {
                let compared = golden.compare(&format!("{label}.{step}.eval.{name}"), parameter, tolerance, &mut worst);
                assert_eq!(compared, noted(name) && kind == "AdamWScheduleFree", "{label}.{step}.{name}");
            }
            optimizer.train_mode().unwrap();
        }
        println!("{label} {}: apart by at most {worst:.1e}", case["options"]);
    }
}

#[test]
fn eight_bit_moments_take_eight_bits() {
    let golden = Golden::read();
    let parameters = [golden.parameter("large"), golden.parameter("wide")];
    let mut optimizer = build("AdamW8bit", json!({ "lr": 0.01 }), &parameters);
    golden.set_gradient("large", &parameters[0], 1);
    golden.set_gradient("wide", &parameters[1], 1);
    optimizer.step().unwrap();
    let state = optimizer.state_dict().unwrap();
    let bytes = |name: &str| state[name].elem_count() * state[name].dtype().size_in_bytes();
    assert_eq!((bytes("state.0.state1"), bytes("state.0.state2"), bytes("state.0.absmax1")), (5000, 5000, 80));
    assert_eq!(bytes("state.1.state1"), 4 * 60);
    let group = ParamGroup { wide_moments: true, ..ParamGroup::new(vec![parameters[0].clone()]) };
    let mut wide = AdamW8bit::new(vec![group], AdamW8bitOptions::default()).unwrap();
    wide.step().unwrap();
    assert_eq!(wide.state_dict().unwrap()["state.0.state1"].dtype(), DType::F32);
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// A JSON map as a script's.
fn rhai_map(options: &Value) -> String {
    let fields: Vec<String> = options.as_object().unwrap().iter().map(|(name, value)| format!("{name}: {value}")).collect();
    format!("#{{ {} }}", fields.join(", "))
}

fn close(found: &Array, expected: &[f64], what: &Value) {
    assert_eq!(found.len(), expected.len());
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found.as_float().unwrap() - expected).abs() < 1e-15, "{what} step {at}: {found} {expected}");
    }
}

#[test]
fn schedules_are_those_of_transformers() {
    for case in Golden::read().facts["schedulers"].as_array().unwrap() {
        let specific = rhai_map(&case["options"]);
        let common =
            format!("num_warmup_steps: {}, num_training_steps: {}", case["num_warmup_steps"], case["num_training_steps"]);
        // As a map of its own, and beside the others.
        let beside = specific.trim_start_matches("#{ ").trim_end_matches(" }");
        for given in [format!("#{{ {common}, scheduler_specific_kwargs: {specific} }}"), format!("#{{ {common}, {beside} }}")] {
            let script = format!(
                "let o = optim::SGD([tensor(0.0, #{{ requires_grad: true }})], #{{ lr: 0.01 }});
                 let s = get_scheduler({}, o, {given});
                 let rates = [o.lr];
                 for i in 0..24 {{ s.step(); rates.push(o.lr); }}
                 rates",
                case["name"]
            );
            let found = engine().eval::<Array>(&script).unwrap_or_else(|error| panic!("{error}\n{script}"));
            close(&found, &numbers(&case["lr"]), case);
        }
    }
}

#[test]
fn a_plateau_lowers_the_rate_as_in_torch() {
    for case in Golden::read().facts["plateau"].as_array().unwrap() {
        let script = format!(
            "let o = optim::SGD([tensor(0.0, #{{ requires_grad: true }})], #{{ lr: 0.01 }});
             let s = get_scheduler(\"reduce_lr_on_plateau\", o, {});
             let rates = [];
             for metric in {} {{ s.step(metric); rates.push(o.lr); }}
             rates",
            rhai_map(&case["options"]),
            case["metrics"]
        );
        close(&engine().eval::<Array>(&script).unwrap(), &numbers(&case["lr"]), case);
    }
}

#[test]
fn the_average_is_that_of_torch() {
    let golden = Golden::read();
    for case in golden.facts["ema"].as_array().unwrap() {
        let names = ["wide", "vector"];
        let parameters = names.map(|name| golden.parameter(name));
        let mut sgd = build("SGD", json!({ "lr": 0.1 }), &parameters);
        let mut ema = Ema::new(parameters.to_vec(), case["decay"].as_f64().unwrap()).unwrap();
        for step in 1..=20 {
            for (name, parameter) in names.iter().zip(&parameters) {
                golden.set_gradient(name, parameter, step);
            }
            sgd.step().unwrap();
            ema.update().unwrap();
            for (name, average) in names.iter().zip(ema.averages()) {
                let compared =
                    golden.compare(&format!("{}.{step}.{name}", case["label"].as_str().unwrap()), average, 1e-6, &mut 0.0);
                assert_eq!(compared, golden.noted().contains(&step), "{step}.{name}");
            }
        }
        let (own, average) = (elements(&parameters[0].value()), elements(&ema.averages()[0].value()));
        let seen = ema.apply(|| Ok(elements(&parameters[0].value()))).unwrap();
        assert!(seen == average && elements(&parameters[0].value()) == own && own != average);
        // A state goes on where it was taken.
        let mut other = Ema::new(parameters.to_vec(), ema.decay()).unwrap();
        other.load_state_dict(&ema.state_dict().unwrap()).unwrap();
        for ema in [&mut ema, &mut other] {
            ema.update().unwrap();
        }
        assert_eq!(elements(&ema.averages()[1].value()), elements(&other.averages()[1].value()));
        assert_eq!(ema.updates(), other.updates());
    }
}

/// Every optimiser with options that use all of its state.
fn all() -> Vec<(&'static str, Value)> {
    vec![
        ("SGD", json!({ "lr": 0.01, "momentum": 0.9 })),
        ("AdamW", json!({ "lr": 0.01 })),
        ("Lion", json!({ "lr": 0.01, "weight_decay": 0.1 })),
        ("Adafactor", json!({ "beta1": 0.9 })),
        ("Muon", json!({ "lr": 0.01 })),
        ("AdamWScheduleFree", json!({ "lr": 0.01, "warmup_steps": 4, "weight_decay": 0.1 })),
        ("AdamW8bit", json!({ "lr": 0.01 })),
    ]
}

const SHAPES: [&[usize]; 4] = [&[200, 190], &[190, 211], &[37], &[3, 40, 5]];

fn parameters(dtype: DType) -> Vec<Parameter> {
    let make = |dims: &&[usize]| {
        let values = (0..dims.iter().product::<usize>()).map(|at| ((at * 7919 % 1013) as f32 / 506.0) - 1.0).collect();
        let made = Parameter::from_vec(values, dims, &Device::Cpu).unwrap();
        made.set_dtype(dtype).unwrap();
        made
    };
    SHAPES.iter().map(make).collect()
}

/// A step with gradients that depend on its number; the first matrix's in factors, as a linear layer of few tokens gives it.
fn step(optimizer: &mut dyn Optimizer, number: usize) {
    let values = |count: usize, seed: usize| -> Vec<f32> {
        (0..count).map(|at| (((at * 7877 + seed * 104_729) % 1009) as f32 / 504.0) - 1.0).collect()
    };
    for (at, parameter) in optimizer.parameters().iter().enumerate() {
        parameter.zero_grad();
        let dims = parameter.dims();
        if at == 0 {
            assert!(parameter.accumulate_product(&values(3 * dims[0], number), &values(3 * dims[1], number + 1)));
        } else {
            let gradient = Tensor::from_vec(values(parameter.elem_count(), number + at), dims, &Device::Cpu).unwrap();
            parameter.accumulate(&gradient).unwrap();
        }
        parameter.scale_grad(0.5);
    }
    optimizer.step().unwrap();
}

fn bits(parameters: &[Parameter]) -> Vec<u32> {
    parameters.iter().flat_map(|p| elements(&p.value())).map(f32::to_bits).collect()
}

#[test]
fn a_restored_state_continues_bit_for_bit() {
    for dtype in [DType::F32, DType::BF16] {
        for (kind, options) in all() {
            let (one, two) = (parameters(dtype), parameters(dtype));
            let (mut whole, mut first) = (build(kind, options.clone(), &one), build(kind, options.clone(), &two));
            for optimizer in [&mut whole, &mut first] {
                optimizer.train_mode().unwrap();
                (0..3).for_each(|number| step(optimizer.as_mut(), number));
                // Whatever a checkpoint saves, both go through it.
                optimizer.eval_mode().unwrap();
            }
            let mut second = build(kind, options, &two);
            second.load_state_dict(&first.state_dict().unwrap()).unwrap();
            for optimizer in [&mut whole, &mut second] {
                optimizer.train_mode().unwrap();
                (3..6).for_each(|number| step(optimizer.as_mut(), number));
            }
            assert_eq!(bits(&one), bits(&two), "{kind} {dtype:?}");
            assert_ne!(bits(&one), bits(&parameters(dtype)), "{kind}");
            let foreign = build("SGD", json!({ "lr": 0.1 }), &two).load_state_dict(&second.state_dict().unwrap());
            assert!(kind == "SGD" || foreign.unwrap_err().to_string().contains('"'), "{kind}");
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for (kind, options) in all() {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let parameters = parameters(DType::F32);
                let mut optimizer = build(kind, options.clone(), &parameters);
                optimizer.train_mode().unwrap();
                (0..3).for_each(|number| step(optimizer.as_mut(), number));
                bits(&parameters)
            })
        };
        let one = run(1);
        assert!(run(2) == one && run(3) == one, "{kind}");
    }
}

#[test]
fn muon_leaves_embeddings_and_vectors_to_adamw() {
    let made = || parameters(DType::F32);
    let (muon, adamw) = (made(), made());
    let groups = vec![
        ParamGroup::new(vec![muon[0].clone(), muon[2].clone()]),
        ParamGroup { use_muon: Some(false), ..ParamGroup::new(vec![muon[1].clone()]) },
    ];
    let options = json!({ "lr": 0.02, "adamw_lr": 0.01, "adamw_betas": [0.8, 0.9], "adamw_weight_decay": 0.3 });
    let mut one = Muon::new(groups, serde_json::from_value(options).unwrap()).unwrap();
    let order = [adamw[0].clone(), adamw[2].clone(), adamw[1].clone()];
    let mut two = build("AdamW", json!({ "lr": 0.01, "betas": [0.8, 0.9], "weight_decay": 0.3 }), &order);
    for number in 0..3 {
        step(&mut one, number);
        step(two.as_mut(), number);
        // A schedule lowers both rates.
        one.set_lr(one.lr() / 2.0).unwrap();
        two.set_lr(two.lr() / 2.0).unwrap();
    }
    assert_eq!(bits(&muon[1..3]), bits(&adamw[1..3]));
    assert_ne!(bits(&muon[..1]), bits(&adamw[..1]));
    let group = ParamGroup { use_muon: Some(true), ..ParamGroup::new(made()) };
    let error = Muon::new(vec![group], serde_json::from_value(json!({})).unwrap()).unwrap_err().to_string();
    assert!(error.contains("[37]"), "{error}");
}

#[test]
fn a_group_of_muons_has_the_rate_that_it_was_given() {
    // The first step of AdamW moves by the rate where the gradient is 1.
    for (group, expected) in [("use_muon: false, lr: 0.25", 0.75), ("use_muon: false", 0.875)] {
        let script = format!(
            "let m = ones([2, 2], #{{ requires_grad: true }}); let e = ones([2, 2], #{{ requires_grad: true }});
             let groups = [#{{ params: [m] }}, #{{ params: [e], {group} }}];
             let o = optim::Muon(groups, #{{ lr: 0.5, adamw_lr: 0.125, weight_decay: 0 }});
             (m.sum() + e.sum()).backward(); o.step(); e.mean().item()"
        );
        let found = engine().eval::<f64>(&script).unwrap_or_else(|error| panic!("{error}\n{script}"));
        assert!((found - expected).abs() < 1e-6, "{group}: {found}");
    }
}

#[test]
fn a_schedule_free_optimiser_has_two_modes() {
    let parameters = parameters(DType::F32);
    let groups = vec![ParamGroup::new(parameters.clone())];
    let mut optimizer = AdamWScheduleFree::new(groups, ScheduleFreeOptions::default()).unwrap();
    let refused = optimizer.step().unwrap_err().to_string();
    assert!(refused.contains("optimizer.train()"), "{refused}");
    optimizer.train_mode().unwrap();
    (0..3).for_each(|number| step(&mut optimizer, number));
    let training = bits(&parameters);
    optimizer.eval_mode().unwrap();
    let averaged = bits(&parameters);
    assert_ne!(training, averaged);
    // Twice the same mode is the same.
    optimizer.eval_mode().unwrap();
    assert_eq!(bits(&parameters), averaged);
}

#[test]
fn wrong_settings_are_refused_in_words() {
    let w = "let w = tensor([1.0], #{ requires_grad: true });";
    for (code, words) in [
        ("optim::Adafactor([w], #{ lr: 0.001 })", "relative_step: false"),
        ("optim::Adafactor([w], #{ relative_step: false })", "lr"),
        ("optim::Adafactor([w], #{ relative_step: false, lr: 1, warmup_init: true })", "warmup_init"),
        ("optim::Adafactor([w], #{ decay_rate: 0.8 })", "<= 0, got 0.8"),
        ("let o = optim::Adafactor([w]); o.lr = 0.1;", "relative_step"),
        ("optim::Adafactor([#{ params: [w], lr: 0.1 }])", "lr"),
        ("optim::Lion([w], #{ betas: [0.9, 1.0] })", "betas[1]"),
        ("optim::Muon([w], #{ ns_steps: 100 })", "below 100"),
        ("optim::Muon([w], #{ adjust_lr_fn: \"rms\" })", "match_rms_adamw"),
        ("optim::Muon([#{ params: [w], use_muon: true }])", "[1]"),
        ("optim::Muon([#{ params: [w], use_muon: 1 }])", "true or false"),
        ("optim::SGD([#{ params: [w], use_muon: true }])", "unknown key \"use_muon\""),
        ("optim::SGD([#{ params: [w], optim_bits: 8 }])", "unknown key \"optim_bits\""),
        ("optim::AdamW8bit([#{ params: [w], optim_bits: 16 }])", "8 or 32, got 16"),
        ("optim::SGD([#{ params: [w], lr: -0.1 }])", "lr of a parameter group must be a finite number >= 0, got -0.1"),
        (
            "let l = optim::Lion([w]); w.sum().backward(); l.step(); optim::AdamW([w]).load_state_dict(l.state_dict())",
            "lacks \"state.0.exp_avg_sq\"",
        ),
        (
            "let o = optim::AdamW8bit([w], #{ min_8bit_size: 1 }); w.sum().backward(); o.step();
             let s = o.state_dict(); s.remove(\"state.0.absmax2\"); o.load_state_dict(s)",
            "lacks \"state.0.absmax2\"",
        ),
        (
            "let o = optim::Adafactor([w]); w.sum().backward(); o.step();
             let s = o.state_dict(); s.remove(\"state.0.exp_avg_sq\"); o.load_state_dict(s)",
            "lacks \"state.0.exp_avg_sq\"",
        ),
        (
            "let o = optim::Adafactor([w]); w.sum().backward(); o.step(); let s = o.state_dict();
             optim::Adafactor([w], #{ beta1: 0.9 }).load_state_dict(s)",
            "lacks \"state.0.exp_avg\"",
        ),
        (
            "let o = optim::AdamWScheduleFree([w]); o.train(); w.sum().backward(); o.step();
             let s = o.state_dict(); s.remove(\"weight_sum\"); o.load_state_dict(s)",
            "lacks \"weight_sum\"",
        ),
        (
            "let o = optim::AdamW([w]); w.sum().backward(); o.step();
             let s = o.state_dict(); s[\"state.0.step\"] = tensor(-1.0); o.load_state_dict(s)",
            "a whole number >= 0, got -1",
        ),
        ("optim::AdamWScheduleFree([w], #{ betas: [0, 0.9] })", "betas[0]"),
        ("optim::AdamW8bit([w], #{ eps: -1 })", "eps"),
        ("EMA([w], #{ decay: 1.5 })", "between 0 and 1, got 1.5"),
        ("EMA([])", "no parameter"),
        ("EMA([w]).restore()", "store"),
        ("let e = EMA([w]); e.store(); e.update();", "restore"),
        ("let e = EMA([w]); e.store(); e.apply(|| 1)", "call restore before"),
        ("let e = EMA([w]); let s = e.state_dict(); s.remove(\"state.0.average\"); e.load_state_dict(s)", "0 parameters"),
        ("let e = EMA([w]); let s = e.state_dict(); s.remove(\"num_updates\"); e.load_state_dict(s)", "lacks \"num_updates\""),
        ("get_scheduler(\"linear\", optim::SGD([w]), #{ num_training_steps: 5, num_cycles: 2 })", "does not take \"num_cycles\""),
        ("get_scheduler(\"cosine_with_min_lr\", optim::SGD([w]), #{ num_training_steps: 5 })", "min_lr_rate"),
        ("get_scheduler(\"warmup_stable_decay\", optim::SGD([w]), #{ num_training_steps: 5 })", "num_decay_steps"),
        (
            "get_scheduler(\"warmup_stable_decay\", optim::SGD([w]), #{ num_training_steps: 5, num_decay_steps: 6 })",
            "more than the 5",
        ),
        (
            "get_scheduler(\"polynomial\", optim::SGD([w]), #{ num_training_steps: 5, lr_end: 1 })",
            "below the learning rate 0.001, got 1",
        ),
        ("get_scheduler(\"reduce_lr_on_plateau\", optim::SGD([w]), #{ factor: 1.0 })", "factor"),
        ("get_scheduler(\"reduce_lr_on_plateau\", optim::SGD([w])).step()", "step(metric)"),
        ("get_scheduler(\"constant\", optim::SGD([w])).step(1.0)", "takes no metric"),
        ("get_scheduler(\"linear\", optim::SGD([w]), #{ num_training_steps: -5 })", "0 or more, given -5"),
        (
            "get_scheduler(\"cosine\", optim::SGD([w]), #{ num_training_steps: 5, num_cycles: 1, scheduler_specific_kwargs: #{ num_cycles: 2 } })",
            "given twice",
        ),
    ] {
        let message = fails(&format!("{w} {code}"));
        assert!(message.contains(words), "{code}: {message}");
    }
}

#[test]
fn a_state_goes_on_with_parameters_of_another_dtype() {
    for (from, to) in [(DType::BF16, DType::F32), (DType::F32, DType::BF16)] {
        for kind in ["SGD", "AdamW", "Lion", "Adafactor", "Muon", "AdamWScheduleFree", "AdamW8bit"] {
            let options = match kind {
                "Adafactor" => json!({}),
                "AdamW8bit" => json!({ "lr": 0.25, "min_8bit_size": 1 }),
                _ => json!({ "lr": 0.25 }),
            };
            let made = |dtype: DType| {
                let parameter = Parameter::new(&Tensor::ones((4, 6), dtype, &Device::Cpu).unwrap()).unwrap();
                parameter.accumulate(&Tensor::ones((4, 6), DType::F32, &Device::Cpu).unwrap()).unwrap();
                let optimizer = build(kind, options.clone(), std::slice::from_ref(&parameter));
                (parameter, optimizer)
            };
            let ((_, mut first), (parameter, mut second)) = (made(from), made(to));
            first.train_mode().unwrap();
            first.step().unwrap();
            first.eval_mode().unwrap();
            second.load_state_dict(&first.state_dict().unwrap()).unwrap();
            let step = second.train_mode().and_then(|()| second.step());
            step.unwrap_or_else(|error| panic!("{kind}, {from:?} to {to:?}: {error}"));
            assert!(elements(&parameter.value()).iter().all(|v| *v < 1.0), "{kind}, {from:?} to {to:?}");
        }
    }
}

#[test]
fn an_average_that_is_refused_leaves_the_old_one() {
    let (one, two) = (parameters(DType::F32), parameters(DType::F32));
    let mut ema = Ema::new(one[2..].to_vec(), 0.5).unwrap();
    ema.update().unwrap();
    let mut state = ema.state_dict().unwrap();
    state.insert("state.0.average".into(), Tensor::zeros(SHAPES[2], DType::F32, &Device::Cpu).unwrap());
    state.insert("state.1.average".into(), Tensor::zeros(7, DType::F32, &Device::Cpu).unwrap());
    let error = ema.load_state_dict(&state).unwrap_err().to_string();
    assert!(error.contains("[7]"), "{error}");
    assert_eq!(bits(ema.averages()), bits(&two[2..]));
}
