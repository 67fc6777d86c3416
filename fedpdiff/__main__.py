"""``python -m fedpdiff`` is the ``fedpdiff`` command."""

import sys

from fedpdiff.cli import main

sys.exit(main())
