"""Put `recipes/` into the built package as `trl_ext/recipes`. Everything else is in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithRecipes(build_py):
    """`build_py` that copies the recipes too. An editable install reads them where they are."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source, target in self._recipes():
                self.mkpath(str(Path(target).parent))
                self.copy_file(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return super().get_outputs(include_bytecode) + [target for _, target in self._recipes()]

    def get_source_files(self) -> list[str]:
        return super().get_source_files() + [source for source, _ in self._recipes()]

    def _recipes(self) -> list[tuple[str, str]]:
        files = sorted(Path("recipes").glob("*.yaml"))
        return [(str(file), str(Path(self.build_lib, "trl_ext", "recipes", file.name))) for file in files]


setup(cmdclass={"build_py": WithRecipes})
