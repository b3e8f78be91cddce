"""Choose what a recipe trains: the method, the loss with its variants, and the hyperparameters that the loss reads."""
