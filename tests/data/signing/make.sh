#!/usr/bin/env bash
# Makes the signatures in this folder with the OpenSSF tool itself, so that what it really writes is what is tested:
#   python3 -m venv /tmp/v && /tmp/v/bin/pip install model-signing==1.1.1 pyopenssl && PATH=/tmp/v/bin:$PATH bash make.sh
# New keys are made each time and the private halves are thrown away: the signatures cannot be made to fit other files.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
keys=$(mktemp -d)
trap 'rm -rf "$keys"' EXIT

new_key() { # name, curve
  openssl ecparam -name "$2" -genkey -noout -out "$keys/$1.pem"
  openssl ec -in "$keys/$1.pem" -pubout -out "$1.pub.pem" 2>/dev/null
}
sign() { # name of the signature, key, further options
  local to=$1 key=$2
  shift 2
  model_signing sign key --private_key "$keys/$key.pem" --signature "$keys/model.sig" "$@" kpi-anomaly >/dev/null
  mv "$keys/model.sig" "$to.sig"
}

new_key p256 prime256v1
new_key p384 secp384r1
new_key p521 secp521r1
sign p256 p256
sign p384 p384
# What is refused: a curve that is not supported, a file that is left out, links, shards, another hash, a certificate.
sign p521 p521
sign without-golden p256 --ignore-paths kpi-anomaly/golden
sign with-links p256 --allow_symlinks
python3 - "$keys" <<'PYTHON'
import sys
import model_signing

def sign(to, hashing):
    config = model_signing.signing.Config().use_elliptic_key_signer(private_key=sys.argv[1] + "/p256.pem")
    config.set_hashing_config(hashing).sign("kpi-anomaly", to)

new = model_signing.hashing.Config
sign("shards.sig", new().use_shard_serialization(shard_size=1000))
sign("blake3.sig", new().use_file_serialization(hashing_algorithm="blake3"))
PYTHON
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$keys/ca.key" -out "$keys/ca.pem" \
  -subj /CN=test-ca -days 36500 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$keys/leaf.key" -out "$keys/leaf.csr" \
  -subj /CN=test-leaf 2>/dev/null
openssl x509 -req -in "$keys/leaf.csr" -CA "$keys/ca.pem" -CAkey "$keys/ca.key" -CAcreateserial -days 36500 \
  -extfile <(printf 'keyUsage=digitalSignature\nextendedKeyUsage=codeSigning') -out "$keys/leaf.pem" 2>/dev/null
model_signing sign certificate --private_key "$keys/leaf.key" --signing_certificate "$keys/leaf.pem" \
  --certificate_chain "$keys/ca.pem" --signature "$keys/certificate.sig" kpi-anomaly >/dev/null
mv "$keys/certificate.sig" certificate.sig
rm -f p521.pub.pem
model_signing --version
