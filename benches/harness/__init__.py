"""What benches/compare consists of."""
