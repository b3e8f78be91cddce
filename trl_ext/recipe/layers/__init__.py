"""The settings of a recipe by their source (file, variants, flags), and the passes that prepare and merge them."""
