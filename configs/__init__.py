"""Configuration: YAML presets by name, the schema that validates them, and `--set` overrides."""

from configs.load import ConfigError, key_names, load_config, preset_names, preset_text
from configs.schema import (
    BackboneConfig,
    ClipConfig,
    Config,
    DatasetConfig,
    ExtractionConfig,
    SDConfig,
    TimmConfig,
)
from configs.train import TrainConfig

__all__ = [
    "BackboneConfig",
    "ClipConfig",
    "Config",
    "ConfigError",
    "DatasetConfig",
    "ExtractionConfig",
    "SDConfig",
    "TimmConfig",
    "TrainConfig",
    "key_names",
    "load_config",
    "preset_names",
    "preset_text",
]
