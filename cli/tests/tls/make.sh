#!/bin/sh
# Makes the certificates of the tests: an authority, and what it has signed.
set -e
cd "$(dirname "$0")"
dir=$(mktemp -d)
: > "$dir/index"
cat > "$dir/config" <<END
[ca]
default_ca = tests
[tests]
database = $dir/index
new_certs_dir = $dir
rand_serial = yes
default_md = sha256
policy = any
[any]
commonName = supplied
END
key() { openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt; }
sign() { # FILE KEY NAME EXTENSIONS END MORE…
    file=$1 key=$2 name=$3 end=$5
    printf '%b' "$4" > "$dir/extensions"
    shift 5
    openssl req -new -key "$key" -subj "/CN=$name" -out "$dir/request"
    openssl ca -batch -notext -config "$dir/config" -in "$dir/request" -keyfile "$dir/ca.key" -startdate 20200101000000Z \
        -enddate "$end" -extfile "$dir/extensions" -out "$file" "$@"
}
for file in "$dir/ca.key" server.key other.key; do key > "$file"; done
forever=21200101000000Z
sign ca.pem "$dir/ca.key" authority 'basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign\n' $forever -selfsign
own='subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n'
sign server.pem server.key server "$own" $forever -cert ca.pem
sign expired.pem server.key expired "$own" 20210101000000Z -cert ca.pem
sign other-name.pem server.key other 'subjectAltName=DNS:other.example\n' $forever -cert ca.pem
rm -r "$dir"
