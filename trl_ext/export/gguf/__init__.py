"""GGUF files of a run for llama.cpp and Ollama: converted, quantised, measured, with a `Modelfile`."""
