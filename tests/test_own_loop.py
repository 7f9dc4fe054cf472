"""Every script of docs/how-to/own-loop.md runs as it stands, and does what the page says of it."""

import re
import sys
from pathlib import Path

import pytest
import torch

from test_docs import ROOT

PAGE = "docs/how-to/own-loop.md"
TEXT = (ROOT / PAGE).read_text(encoding="utf-8")
SCRIPTS = {
    f"{heading}-{number}": script
    for heading, section in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", TEXT, re.S | re.M)
    for number, script in enumerate(re.findall(r"^```python\n(.*?)^```", section, re.S | re.M))
}
NEEDS = {"Lightning": "lightning", "MONAI": "ignite", "Accelerate": "accelerate"}


def test_the_page_has_a_script_for_every_framework():
    assert {name.rpartition("-")[0] for name in SCRIPTS} >= {"PyTorch", *NEEDS}


@pytest.mark.parametrize("name", [name for name in SCRIPTS if not name.startswith("What changes")])
@pytest.mark.filterwarnings("ignore")  # the frameworks' own
def test_the_script_runs(name, tmp_path, monkeypatch, capsys):
    heading = name.rpartition("-")[0]
    if heading in NEEDS:
        pytest.importorskip(NEEDS[heading], reason=f"{NEEDS[heading]} is not installed")
    (cases,) = (script for script in SCRIPTS.values() if script.startswith("# lesions.py\n"))
    Path(tmp_path / "lesions.py").write_text(cases, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lesions", raising=False)
    names = {"__name__": "script"}
    exec(compile(SCRIPTS[name], PAGE, "exec"), names)
    network = names.get("model") or (names["module"].network if "module" in names else None)
    if network is not None:
        fresh = sys.modules["lesions"].network().state_dict()
        assert not all(torch.equal(value, fresh[key]) for key, value in network.state_dict().items()), "nothing was trained"
    if "write_maps" in SCRIPTS[name]:
        assert len(list(Path("helped").glob("*.png"))) == 12
    sys.modules.pop("lesions", None)
