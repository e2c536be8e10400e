"""The starter's alias, for ``kedro new --starter=mlflow-metrics``."""

from kedro.framework.cli.starters import KedroStarterSpec

from .template import ROOT

# A local folder: of an address Kedro (1.7) would check out the tag that is called as its version.
STARTERS = [KedroStarterSpec("mlflow-metrics", str(ROOT))]
