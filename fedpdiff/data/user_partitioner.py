"""A user's own partitioner: ``partitioner = "module:Class"`` from a file in the user's own folder."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from hashlib import sha256
from pathlib import Path
from types import ModuleType

from flwr_datasets.partitioner import Partitioner

from fedpdiff.config import RunConfig
from fedpdiff.errors import ConfigError


def user_partitioner(config: RunConfig) -> type[Partitioner]:
    """Return the class that ``partitioner = "module:Class"`` names.

    Raises
    ------
    ConfigError
        When the file, the module's import, or the class in it is not right.
    """
    module_name, _, class_name = config.partitioner.partition(":")
    try:
        module = _user_module(module_name, config.partitioner_path)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f'partitioner = "{config.partitioner}": importing the module {module_name} fails with '
            f"{type(error).__name__}: {error}"
        ) from error
    kind = getattr(module, class_name, None)
    if not (inspect.isclass(kind) and issubclass(kind, Partitioner)):
        kinds = {name: value for name, value in vars(module).items() if inspect.isclass(value)}
        found = [n for n, v in kinds.items() if issubclass(v, Partitioner) and v is not Partitioner]
        raise ConfigError(
            f'partitioner = "{config.partitioner}": {class_name} is no subclass of flwr_datasets.partitioner.'
            f"Partitioner in that module; it has: {', '.join(found) or 'none'}"
        )
    return kind


def _user_module(name: str, folder: str) -> ModuleType:
    """Import ``name`` from its file in ``folder``, or an installed module where no folder is given.

    The file is imported under a name of its own: ``sys.path`` stays as it is, and no module is hidden.
    """
    if not folder:
        return importlib.import_module(name)
    root = Path(folder)
    file = root.joinpath(*name.split(".")).with_suffix(".py")
    if not file.is_file():
        raise ConfigError(
            f'partitioner-path = "{folder}" has no file {file.relative_to(root)} for partitioner = '
            f'"{name}:..."'
        )
    unique = f"_fedpdiff_partitioner_{sha256(str(file).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(unique, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f'partitioner-path = "{folder}": {file.name} cannot be imported')
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module  # dataclasses and pickle look their module up here
    spec.loader.exec_module(module)
    return module
