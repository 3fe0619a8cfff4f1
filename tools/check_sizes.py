"""Fail when a file of the package is over 350 lines or a function over 70."""

import ast
import sys
from pathlib import Path

LINES_MAX = 350
FUNCTION_LINES_MAX = 70

ROOT = Path(__file__).parent.parent


def faults(path: Path) -> list[str]:
    """What is too long in one file, a sentence each."""
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(ROOT)
    found = []
    lines = text.count("\n")
    if lines > LINES_MAX:
        found.append(f"{name}: {lines} lines; split it by subject (at most {LINES_MAX})")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                found.append(f"{name}:{node.lineno}: {node.name} has {length} lines (at most {FUNCTION_LINES_MAX})")
    return found


def main() -> int:
    """0 when every file and function is short enough."""
    found = [fault for path in sorted((ROOT / "batcher").rglob("*.py")) for fault in faults(path)]
    sys.stderr.writelines(f"{fault}\n" for fault in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
