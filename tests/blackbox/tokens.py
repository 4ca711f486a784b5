"""Tokens as A's and B's applications make them (contract §10)."""

import time
import uuid

import jwt

SECRET = "black-box-suite-key-0123456789abcdef-0123456789"


def token(user_id="7", username="admin", permissions=("admin.access", "audit.view", "audit.write"), expires_in=3600, secret=SECRET,
          algorithm="HS256", **claims):  # fmt: skip
    now = int(time.time())
    body = {"user_id": user_id, "username": username, "permissions": list(permissions), "jti": uuid.uuid4().hex,
            "iat": now, "exp": now + expires_in} | claims  # fmt: skip
    return jwt.encode({k: v for k, v in body.items() if v is not None}, secret, algorithm)
