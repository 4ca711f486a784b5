"""People who may sign in, made by `auditcast user` as an administrator does (contract §1, §10)."""

import base64
import hashlib
import hmac
import re
import struct
import subprocess
import time

from daemon import BINARY

PASSWORD = "Correct-Horse-7"
#: bcrypt as cheap as it gets: what is tested is not how long it takes.
FAST = {"bcrypt_cost": 4}


def command(daemon, *arguments, stdin=""):
    done = subprocess.run([BINARY, "--config", daemon.config_path, *arguments], env=daemon.env(), input=stdin, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    return done.stdout


def add(daemon, name, role="ADMIN", password=PASSWORD):
    command(daemon, "user", "add", name, *(["--role", role] if role else []), "--password-file", "-", stdin=password + "\n")


def code(secret, at=None):
    """RFC 6238: SHA-1, six digits, 30 s."""
    mac = hmac.digest(base64.b32decode(secret + "=" * (-len(secret) % 8)), struct.pack(">Q", int(at or time.time()) // 30), hashlib.sha1)
    offset = mac[-1] & 15
    return f"{(struct.unpack('>I', mac[offset:offset + 4])[0] & 0x7FFFFFFF) % 10**6:06d}"


def second_factor(daemon, name):
    """Sets one up as a person does: reads the secret, answers with a code of it. Gives the secret."""
    arguments = [BINARY, "--config", daemon.config_path, "user", "totp", name]
    with subprocess.Popen(arguments, env=daemon.env(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        uri = process.stdout.readline()
        secret = re.search(r"secret=([A-Z2-7]+)", uri)[1]
        # A code of the step before, so that the one of now is still good for signing in.
        out, err = process.communicate(code(secret, time.time() - 30) + "\n", timeout=30)
    assert process.returncode == 0, (uri, out, err)
    return secret
