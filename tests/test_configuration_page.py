import runpy
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "docs" / "configuration.py"


def test_it_says_what_the_code_does():
    made = runpy.run_path(str(SCRIPT))["page"]()
    assert made == SCRIPT.with_suffix(".md").read_text(), "python docs/configuration.py writes it anew"
    assert "| `--contrast.temperature` | `0.1` | float | Softmax temperature, no unit." in made
