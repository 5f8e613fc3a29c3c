"""The configuration: YAML in, one frozen and typed `Config` out.

Unknown keys, wrong types and values out of range are errors that name the file, the line, the value, and the nearest
thing that would have been right.
"""

from streamer.config.load import load_config
from streamer.config.schema import Config, Output, Search, Source
from streamer.config.sizes import format_bytes, parse_bytes

__all__ = ["Config", "Output", "Search", "Source", "format_bytes", "load_config", "parse_bytes"]
