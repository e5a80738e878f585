"""The service. `serve.app:portrait` is what Ray Serve's command line builds; docs/service.md has the API."""

import sys
from pathlib import Path

# A replica that got the repository as its working directory has the library beside this folder, not installed.
sys.path.append(str(Path(__file__).resolve().parent.parent / "platform"))
