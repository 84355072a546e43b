"""What benches/compare and benches/gpu consist of."""
