//! How far tensors are from what is expected of them.

use candle_core::Tensor;

/// Largest absolute difference relative to the largest expected value. What is not a number is no small difference: candle's `max`
/// passes over it.
pub fn difference(found: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(found.dims(), expected.dims());
    let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (found, expected) = (values(found), values(expected));
    assert!(found.iter().chain(&expected).all(|v| v.is_finite()), "a value is not a finite number");
    let largest = expected.iter().fold(1e-6f32, |most, v| most.max(v.abs()));
    found.iter().zip(&expected).fold(0f32, |most, (a, b)| most.max((a - b).abs())) / largest
}
