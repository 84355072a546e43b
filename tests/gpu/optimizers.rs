//! Steps on a device against steps on the CPU.

use super::operations::values;
use super::{device, difference, on_cpu};
use candle_core::{DType, Device, Tensor};
use ftrepl::nn::Parameter;
use ftrepl::optim::{Adam, AdamOptions, AdamWOptions, Optimizer, ParamGroup, Sgd, SgdOptions, clip_to_norm, grad_norm};

/// More than a kernel's chunk, less, and sizes that no load of 16 bytes divides.
const SHAPES: [&[usize]; 6] = [&[1], &[7], &[4096], &[5003], &[65, 33], &[2, 8192]];

fn parameters(dtype: DType, device: &Device) -> Vec<Parameter> {
    let make = |(seed, shape): (usize, &&[usize])| {
        Parameter::new(&values(shape, seed).to_device(device).unwrap().to_dtype(dtype).unwrap()).unwrap()
    };
    SHAPES.iter().enumerate().map(make).collect()
}

fn give_gradients(parameters: &[Parameter], dtype: DType, step: usize) {
    for (at, parameter) in parameters.iter().enumerate() {
        let gradient = values(&parameter.dims(), 100 * step + at).to_device(&parameter.device()).unwrap();
        parameter.zero_grad();
        parameter.accumulate(&gradient.to_dtype(dtype).unwrap()).unwrap();
    }
}

/// Two groups with settings of their own.
fn optimizer(parameters: &[Parameter]) -> Adam {
    let (plain, other) = parameters.split_at(2);
    let mut other = ParamGroup::new(other.to_vec()).with_weight_decay(0.0);
    other.lr_scale = 3.0;
    let options = AdamWOptions { lr: 1e-2, weight_decay: 0.1, ..AdamWOptions::default() };
    Adam::adamw(vec![ParamGroup::new(plain.to_vec()), other], options).unwrap()
}

fn f32_of(parameter: &Parameter) -> Tensor {
    on_cpu(&parameter.value())
}

#[test]
fn adamw_with_groups_and_clipping() {
    let Some(card) = device() else { return };
    for (dtype, of_gradients) in [(DType::F32, DType::F32), (DType::BF16, DType::F32), (DType::BF16, DType::BF16)] {
        for max_norm in [0.0, 1.0, 1e6] {
            let (here, there) = (parameters(dtype, &Device::Cpu), parameters(dtype, &card));
            let (mut expected, mut found) = (optimizer(&here), optimizer(&there));
            for step in 0..4 {
                let rate = 1e-2 / (step + 1) as f64;
                expected.set_lr(rate).unwrap();
                found.set_lr(rate).unwrap();
                give_gradients(&here, DType::F32, step);
                give_gradients(&there, of_gradients, step);
                let norm = grad_norm(&here).unwrap();
                if max_norm > 0.0 {
                    clip_to_norm(&here, norm, max_norm);
                }
                expected.step().unwrap();
                let given = found.step_on_device(max_norm).unwrap().expect("this optimiser serves these dtypes").value().unwrap();
                assert!((given - norm).abs() < 1e-5 * norm, "{dtype:?} {of_gradients:?}: norm {given} instead of {norm}");
                for (here, there) in here.iter().zip(&there) {
                    let apart = difference(&f32_of(there), &f32_of(here));
                    // A rounding of bf16, where the exact values lie near a middle.
                    let tolerance = if dtype == DType::F32 { 1e-5 } else { 8e-3 };
                    assert!(apart < tolerance, "{dtype:?} {of_gradients:?} {max_norm} step {step} {:?}: {apart}", here.dims());
                }
            }
            for (name, expected) in expected.state_dict().unwrap() {
                let found = &found.state_dict().unwrap()[&name];
                let apart = difference(&on_cpu(found).flatten_all().unwrap(), &on_cpu(&expected).flatten_all().unwrap());
                assert!(apart < 1e-4, "{dtype:?} {of_gradients:?}: {name} differs by {apart}");
            }
        }
    }
}

#[test]
fn a_norm_that_is_not_finite_changes_nothing_from_then_on() {
    let Some(card) = device() else { return };
    for bad in [f32::NAN, f32::INFINITY, 1e30] {
        let there = parameters(DType::F32, &card);
        let mut optimizer = optimizer(&there);
        give_gradients(&there, DType::F32, 1);
        assert!(optimizer.step_on_device(1.0).unwrap().unwrap().value().unwrap().is_finite());
        let before: Vec<Tensor> = there.iter().map(f32_of).collect();
        give_gradients(&there, DType::F32, 2);
        there[3].accumulate(&Tensor::full(bad, 5003, &card).unwrap()).unwrap();
        assert!(!optimizer.step_on_device(1.0).unwrap().unwrap().value().unwrap().is_finite());
        give_gradients(&there, DType::F32, 3);
        assert!(optimizer.step_on_device(1.0).unwrap().unwrap().value().unwrap().is_finite());
        for (before, parameter) in before.iter().zip(&there) {
            assert_eq!(difference(&f32_of(parameter), before), 0.0, "{bad}");
        }
    }
}

#[test]
fn a_state_is_restored_twice_and_a_parameter_that_is_set_stays_so() {
    let Some(card) = device() else { return };
    for dtype in [DType::F32, DType::BF16] {
        let there = parameters(dtype, &card);
        let mut first = optimizer(&there);
        let step = |optimizer: &mut Adam, step: usize| {
            give_gradients(&there, DType::F32, step);
            optimizer.step_on_device(1.0).unwrap().unwrap();
        };
        step(&mut first, 0);
        step(&mut first, 1);
        let state = first.state_dict().unwrap();
        let values: Vec<Tensor> = there.iter().map(|p| p.value().copy().unwrap()).collect();
        let put_back = || there.iter().zip(&values).for_each(|(parameter, value)| parameter.set(value).unwrap());
        let mut results = Vec::new();
        for _ in 0..2 {
            put_back();
            let mut again = optimizer(&there);
            again.load_state_dict(&state).unwrap();
            (2..5).for_each(|at| step(&mut again, at));
            results.push(there.iter().map(f32_of).collect::<Vec<_>>());
        }
        for (one, other) in results[0].iter().zip(&results[1]) {
            assert_eq!(difference(one, other), 0.0, "{dtype:?}");
        }
        // Somebody sets the parameters between two steps: the next step starts there.
        there.iter().for_each(|parameter| parameter.set(&Tensor::full(5f32, parameter.dims(), &card).unwrap()).unwrap());
        step(&mut first, 5);
        for parameter in &there {
            let apart = (f32_of(parameter) - 5.0).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(apart < 0.2, "{dtype:?}: {apart}");
        }
    }
}

/// Updates smaller than a rounding of bf16 add up.
#[test]
fn small_updates_of_bf16_parameters_are_not_lost() {
    let Some(card) = device() else { return };
    let parameter = Parameter::new(&Tensor::ones(9, DType::BF16, &card).unwrap()).unwrap();
    let options = AdamWOptions { lr: 1e-4, weight_decay: 0.0, ..AdamWOptions::default() };
    let mut adam = Adam::adamw(vec![ParamGroup::new(vec![parameter.clone()])], options).unwrap();
    for step in 0..100 {
        parameter.zero_grad();
        parameter.accumulate(&Tensor::ones(9, DType::BF16, &card).unwrap()).unwrap();
        adam.step_on_device(0.0).unwrap().unwrap();
        if step == 50 {
            // As an average of the weights does around an evaluation: away, and back.
            let value = parameter.value().copy().unwrap();
            parameter.set(&Tensor::zeros(9, DType::F32, &card).unwrap()).unwrap();
            parameter.set(&value).unwrap();
        }
    }
    let value = f32_of(&parameter).to_vec1::<f32>().unwrap()[0];
    assert!((value - 0.99).abs() < 0.003, "{value}");
}

/// By candle's operations, for those that have no kernel.
#[test]
fn other_optimizers() {
    let Some(card) = device() else { return };
    type Build = fn(Vec<Parameter>) -> Box<dyn Optimizer>;
    let sgd: Build = |p| {
        let options = SgdOptions { lr: 1e-2, momentum: 0.9, weight_decay: 0.1, ..SgdOptions::default() };
        Box::new(Sgd::new(vec![ParamGroup::new(p)], options).unwrap())
    };
    let adam: Build =
        |p| Box::new(Adam::new(vec![ParamGroup::new(p)], AdamOptions { weight_decay: 0.1, ..AdamOptions::default() }).unwrap());
    for build in [sgd, adam] {
        let (here, there) = (parameters(DType::F32, &Device::Cpu), parameters(DType::F32, &card));
        let (mut expected, mut found) = (build(here.clone()), build(there.clone()));
        for step in 0..3 {
            for (parameters, optimizer) in [(&here, &mut expected), (&there, &mut found)] {
                give_gradients(parameters, DType::F32, step);
                if optimizer.step_on_device(0.0).unwrap().is_none() {
                    optimizer.step().unwrap();
                }
            }
        }
        for (here, there) in here.iter().zip(&there) {
            assert!(difference(&f32_of(there), &f32_of(here)) < 1e-5, "{}", expected.name());
        }
    }
}
