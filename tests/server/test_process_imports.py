from __future__ import annotations

import subprocess
import sys


def test_the_http_process_loads_no_machine_learning_library_and_no_sdk_before_it_is_needed() -> None:
    program = (
        "import sys, server.cli.main, server.cli.serving, server.api.app\n"
        "server.api.app.create_app(lambda: None).openapi()\n"
        "print([m for m in ('torch', 'transformers', 'diffusers', 'coremltools', 'tokenizers', 'mcp') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
