"""See tests/contract/conftest.py."""

from tests.redisio.test_client import *  # noqa: F403
from tests.redisio.test_redis_errors import *  # noqa: F403
from tests.redisio.test_script import *  # noqa: F403
