"""Build a trainer from a recipe: each file makes one part of it, and `trainer` puts them together.

`dataset` reads the examples, `tokenizer` loads the tokenizer or processor, `dtypes` chooses the precision, `model` loads the base
and its adapter (`lora_targets` checks their names), `rewards` loads reward functions, `shared_base` lends one base to several
trainers, `refusals` turns errors of the trainer's constructor into sentences. `inspection` reports on the data alone.
"""
