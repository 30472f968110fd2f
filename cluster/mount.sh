#!/usr/bin/env bash
# Mounts an S3 bucket as a folder that all users of this machine may write, by s3fs. Run as root; does nothing where it
# is mounted. On instances of cluster.yaml the bucket is that of the instance's tag, and the credentials its role's:
#
#   mount.sh FOLDER [BUCKET [more options of s3fs]]
set -euo pipefail

folder=$1
bucket=${2:-}
mountpoint -q "$folder" && exit 0

if [ -z "$bucket" ]; then
    metadata=http://169.254.169.254/latest
    token=$(curl -sSf -m 5 -X PUT "$metadata/api/token" -H "X-aws-ec2-metadata-token-ttl-seconds: 60")
    bucket=$(curl -sSf -m 5 -H "X-aws-ec2-metadata-token: $token" "$metadata/meta-data/tags/instance/pixcon-bucket")
    region=$(curl -sSf -m 5 -H "X-aws-ec2-metadata-token: $token" "$metadata/meta-data/placement/region")
    set -- "$folder" "$bucket" -o "iam_role=auto,endpoint=$region,url=https://s3.$region.amazonaws.com"
fi

mkdir -p "$folder"
# What one node writes the others see within a second (the default is 15 minutes); the machine's users own all of it.
s3fs "$bucket" "$folder" "${@:3}" -o allow_other,umask=0000,stat_cache_expire=1
for _ in $(seq 30); do mountpoint -q "$folder" && exit 0; sleep 1; done
echo "$folder: s3fs did not mount s3://$bucket; see the system log" >&2
exit 1
