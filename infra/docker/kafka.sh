#!/usr/bin/env bash
# Formats Kafka's storage with its SCRAM users at the first start, then becomes the broker.
# KAFKA_USERS names the users; the password of deep-learning is in PASSWORD_DEEP_LEARNING, and so on. Passwords take effect at the
# first start only: later ones are changed with kafka-configs.sh --alter --entity-type users.
set -euo pipefail

bin=${KAFKA_BIN:-/opt/kafka/bin}
config=${KAFKA_CONFIG:-/etc/headrace/kafka.properties}
data=$(sed -n 's/^log\.dirs=//p' "$config")

if [[ ! -f $data/meta.properties ]]; then # the last file that formatting writes
    arguments=$(mktemp)
    chmod 600 "$arguments"
    printf '%s\n' format --ignore-formatted --cluster-id "$("$bin/kafka-storage.sh" random-uuid)" --config "$config" > "$arguments"
    for user in $KAFKA_USERS; do
        variable=PASSWORD_${user//-/_}
        variable=${variable^^}
        printf '%s\n' --add-scram "SCRAM-SHA-256=[name=$user,password=${!variable:?is not set}]" >> "$arguments"
    done
    "$bin/kafka-storage.sh" "@$arguments" > /dev/null # a file, since others can read command lines; it prints the salted keys
    rm "$arguments"
fi
exec "$bin/kafka-server-start.sh" "$config"
