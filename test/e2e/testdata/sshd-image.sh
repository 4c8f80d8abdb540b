#!/bin/sh
# What the image "sshd" of the tests is made with: a plain Debian with sshd and cloud-init, less what a microVM that lives for
# one job has no use for.
set -eu
# cloud-init is told where to look, which it would find out otherwise, and what there is to do here.
cat > /etc/cloud/cloud.cfg.d/99-firerunner.cfg <<'END'
datasource_list: [NoCloud]
cloud_init_modules: [write-files, set_hostname, users-groups, ssh]
END
rm -f /etc/motd /etc/update-motd.d/*
for u in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
  systemd-binfmt.service proc-sys-fs-binfmt_misc.automount sys-fs-fuse-connections.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
  dev-hugepages.mount dev-mqueue.mount systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-pstore.service \
  systemd-journal-flush.service serial-getty@ttyS0.service getty@tty1.service systemd-logind.service \
  cloud-config.service cloud-final.service cloud-init-hotplugd.socket modprobe@configfs.service modprobe@drm.service modprobe@efi_pstore.service modprobe@fuse.service modprobe@dm_mod.service modprobe@loop.service; do
  ln -sf /dev/null "/etc/systemd/system/$u"
done
