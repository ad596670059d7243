"""Data: named sets, files, binding to a model's arguments, and mini-batches."""

from ritz.data._batches import Batches
from ritz.data._bind import Binding, bind
from ritz.data._make_batches import batches
from ritz.data._named import load, names
from ritz.data._read import read
from ritz.data._table import Table

__all__ = ["Batches", "Binding", "Table", "batches", "bind", "load", "names", "read"]
