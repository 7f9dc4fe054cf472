"""The script that checks networks of other libraries says what `verify` finds, and its page what the script has found."""

from pathlib import Path

import pandas as pd
import pytest
from torch import nn

import verify_networks
from test_any_network import Once
from verify_networks import NETWORKS, Network, examine, main, table_of

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results/networks/networks.csv"


class Squared(nn.Conv2d):
    def forward(self, images):
        return Once.apply(super().forward(images))


def test_the_page_of_networks_shows_the_results():
    assert table_of(pd.read_csv(RESULTS)) in (ROOT / "docs/reference/networks.md").read_text(encoding="utf-8"), "verify_networks.py --print"


def test_the_results_are_those_of_the_networks_of_the_script():
    rows = pd.read_csv(RESULTS)
    places = {(n.library, n.name, "x".join(map(str, n.images))): place for place, n in enumerate(NETWORKS)}
    found = [places[row] for row in zip(rows["library"], rows["network"], rows["input"], strict=True)]
    assert found == sorted(set(found))


@pytest.mark.filterwarnings("ignore::pixeltrust.plumbing.errors.GainsWarning")
def test_a_network_is_examined_or_the_reason_is_given(monkeypatch):
    monkeypatch.setitem(verify_networks.LIBRARIES, "absent", ("no_such_library", ()))
    monkeypatch.setitem(verify_networks.LIBRARIES, "torch", ("torch.nn", ()))
    right = examine(Network("torch", "", lambda nn: nn.Conv2d(3, 2, 1), (2, 3, 6, 6)))
    assert right["verdict"] == "right"
    assert (right["way"], right["parameters"], right["passed_over"], right["without_rule"]) == ("rules", 8, "", "")
    assert right["difference"] <= right["tolerance"]
    assert right["cost"] > 0
    assert examine(Network("torch", "", lambda nn: Squared(3, 2, 1), (2, 3, 6, 6)))["verdict"].startswith(
        "refused: Squared has no exact gains"
    )
    assert examine(Network("torch", "", lambda nn: nn.Conv2d(3), (2, 3, 6, 6)))["verdict"].startswith("not built: ")
    assert examine(Network("absent", "", lambda nn: nn.Conv2d(3, 2, 1)))["verdict"].startswith("not installed: ")


def test_what_is_there_is_kept_and_what_is_asked_for_is_made_anew(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(verify_networks, "NETWORKS", tuple(Network("monai", name, nn.Conv2d) for name in ("x", "y", "z")))
    monkeypatch.setattr(verify_networks, "examine", lambda network: seen.append(network.name) or {"verdict": "right"})

    def run(*words):
        seen.clear()
        monkeypatch.setattr("sys.argv", ["verify_networks.py", "--out", str(tmp_path / "new" / "table.csv"), *words])
        main()
        return "".join(seen)

    assert run("--only", "y") == "y"
    assert run() == "xz"
    assert run() == ""
    assert run("--only", "z", "--only", "x") == "xz"
    assert list(pd.read_csv(tmp_path / "new" / "table.csv")["network"]) == ["x", "y", "z"]
