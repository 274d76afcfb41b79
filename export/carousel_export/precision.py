"""The precisions of a bundle, as its manifest names them."""

from enum import StrEnum


class Precision(StrEnum):
    FLOAT32 = "float32"
    INT8 = "int8"
