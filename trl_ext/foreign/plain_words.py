"""Give plain words that people write for settings, in files of no known program."""

from trl_ext.foreign.dialect import Dialect

PLAIN_WORDS = Dialect(
    "no known program",
    {
        "lr": "learning_rate",
        "epochs": "num_train_epochs",
        "num_epochs": "num_train_epochs",
        "batch_size": "per_device_train_batch_size",
        "grad_accum": "gradient_accumulation_steps",
        "optimizer": "optim",
        "lr_scheduler": "lr_scheduler_type",
        "model": "model_name_or_path",
        "dataset": "dataset_name",
    },
)
