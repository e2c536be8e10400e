"""A dataset of the project's own."""

import csv
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset

Table = list[dict[str, float]]


class CsvTable(AbstractDataset[Table, Table]):
    """A CSV file of numbers."""

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self.filepath = Path(filepath)
        self.metadata = metadata

    def load(self) -> Table:
        with self.filepath.open(newline="") as file:
            return [
                {key: float(value) for key, value in row.items()} for row in csv.DictReader(file)
            ]

    def save(self, data: Table) -> None:
        raise NotImplementedError

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self.filepath)}
