"""`python -m traindeeploy` is the command traindeeploy."""

import sys

from .cli import main

sys.exit(main())
