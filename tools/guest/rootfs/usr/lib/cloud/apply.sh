# Makes this guest what /run/cloud/meta_data.json and /run/cloud/user_data say.

# The values at a path of meta_data.json: meta hostname, meta 'public_keys\..*'
meta() {
    sed -n "s/^$1	//p" /run/cloud/meta
}

apply_identity() {
    [ -s /run/cloud/meta_data.json ] || return 0
    awk -f /usr/lib/cloud/json.awk /run/cloud/meta_data.json > /run/cloud/meta

    name=$(meta hostname)
    if [ -n "$name" ]; then
        echo "${name%%.*}" > /etc/hostname
        hostname -F /etc/hostname
        printf '127.0.0.1 localhost\n127.0.1.1 %s %s\n' "$name" "${name%%.*}" > /etc/hosts
    fi

    # By a rename: where a guest starts again there is a key, and somebody may be logging in with it.
    for home in /root /home/cirros; do
        keys=$home/.ssh/authorized_keys
        meta 'public_keys\.[^	]*' > $keys.new
        chmod 600 $keys.new
        mv $keys.new $keys
    done

    password=$(meta admin_pass)
    if [ -n "$password" ]; then
        hash=$(mkpasswd -m sha512 "$password")
        sed -i "s|^\(root\|cirros\):[^:]*:|\1:$hash:|" /etc/shadow
    fi
}

# A script (perhaps gzipped) is run once in the life of an instance. Other kinds are not for this guest.
apply_user_data() {
    [ -s /run/cloud/user_data ] || return 0
    instance=$(meta uuid)
    [ "$instance" = "$(cat /var/lib/cloud/instance 2>/dev/null)" ] && return 0
    echo "$instance" > /var/lib/cloud/instance

    script=/var/lib/cloud/user-data
    zcat < /run/cloud/user_data > $script 2>/dev/null || cp /run/cloud/user_data $script
    if [ "$(head -c 2 $script)" != '#!' ]; then
        say "user data is not a script: left in $script"
        return 0
    fi
    chmod 755 $script
    { $script 2>&1; echo "exit status $?"; } | tee /var/log/user-data.log | sed 's/^/user-data: /' > /dev/console
}
