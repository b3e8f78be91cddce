"""What training does to a real chat model on real language, measured on a CPU."""
