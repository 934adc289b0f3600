"""For all tests: real signals reach real processes, whatever started the tests."""

import signal

# A runner under nohup or in the background hands ignored signals on to every child, which then ignores them too.
for _number, _usual in (
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGTERM, signal.SIG_DFL),
    (signal.SIGINT, signal.default_int_handler),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)
