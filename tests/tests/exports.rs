//! What stock clients are told about an export, and who may use it: holes, TLS, read-only volumes.

use anyhow::{Context as _, Result, ensure};
use farside_tests::BlockClient as _;
use farside_tests::clock::{Seen, wait_until};
use farside_tests::nbd::{Endpoint, NbdClient};
use farside_tests::ports::free_address;
use farside_tests::tools::Tool;
use farside_tests::units::{Pair, Sizes, Unit, VOLUME, local_unit};
use farside_tests::{Random, World, images, limits, promise};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::net::SocketAddr;
use std::path::Path;

/// What `nbdinfo --map` says: offset, length, flags.
fn map(uri: &str) -> Result<Vec<(u64, u64, u64)>> {
    let text = Tool::new("nbdinfo").args(["--map", "--json", uri]).ok()?.stdout;
    let extents: Vec<serde_json::Value> = serde_json::from_str(&text).context(text)?;
    let field = |extent: &serde_json::Value, name: &str| {
        extent[name]
            .as_u64()
            .with_context(|| format!("no {name} in {extent}"))
    };
    let all = extents.iter().map(|extent| {
        Ok((
            field(extent, "offset")?,
            field(extent, "length")?,
            field(extent, "type")?,
        ))
    });
    all.collect()
}

#[test]
fn holes_are_told_before_and_after_the_mirror_has_them() {
    promise(|world| {
        let pair = Pair::start(world, Sizes::SMALL)?;
        let size = Sizes::SMALL.disk_bytes();
        ensure!(map(&pair.uri())? == [(0, size, 3)], "{:?}", map(&pair.uri())?);
        let mut client = pair.connect()?;
        let data = Random::new(world.seed()).bytes(1 << 20);
        client.write(1 << 20, &data)?;
        client.write(8 << 20, &data)?;
        client.trim(8 << 20, 1 << 19)?;
        client.flush()?;
        let wanted = [
            (0, 1 << 20, 3),
            (1 << 20, 1 << 20, 0),
            (2 << 20, (6 << 20) + (1 << 19), 3),
            ((8 << 20) + (1 << 19), 1 << 19, 0),
            (9 << 20, size - (9 << 20), 3),
        ];
        ensure!(map(&pair.uri())? == wanted, "at once: {:?}", map(&pair.uri())?);
        pair.expect_same_on_both_sides()?;
        ensure!(map(&pair.uri())? == wanted, "mirrored: {:?}", map(&pair.uri())?);

        // A copy made by what was told is complete, and as sparse.
        let copy = world.file("copy.img");
        Tool::new("nbdcopy").args([&pair.uri()]).path(&copy).ok()?;
        images::expect_equal(&copy, &pair.mirror())?;
        let listed = Tool::new("qemu-img")
            .args(["map", "-f", "raw", "--output=json", &pair.uri()])
            .ok()?;
        let extents: Vec<serde_json::Value> = serde_json::from_str(&listed.stdout)?;
        let data: u64 = extents
            .iter()
            .filter(|extent| extent["data"] == true)
            .filter_map(|extent| extent["length"].as_u64())
            .sum();
        ensure!(data == (1 << 20) + (1 << 19), "{}", listed.stdout);
        Ok(())
    });
}

/// An authority, and certificates of a server and a client under the names that libnbd and qemu look for.
fn certificates(directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)?;
    let key = KeyPair::generate()?;
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.distinguished_name.push(DnType::CommonName, "authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    std::fs::write(directory.join("ca-cert.pem"), authority.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(authority, key);
    for name in ["server", "client"] {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &issuer)?.pem();
        std::fs::write(directory.join(format!("{name}-cert.pem")), certificate)?;
        std::fs::write(directory.join(format!("{name}-key.pem")), key.serialize_pem())?;
    }
    Ok(())
}

/// A unit with TLS and these lines for its volume.
fn unit_with_tls<'w>(world: &'w World, nbd: SocketAddr, tls: &str, volume: &str) -> Result<Unit<'w>> {
    let pki = world.file("pki");
    let text = format!(
        "[nbd.tls]\ncertificate = \"{0}/server-cert.pem\"\nkey = \"{0}/server-key.pem\"\n{tls}\n\
         [[volume]]\nname = \"{VOLUME}\"\nsize = \"64M\"\njournal_size = \"16M\"\n{volume}\n",
        pki.display(),
    );
    local_unit(world, "local", &world.file("local"), nbd, &text)
}

fn tls_uri(world: &World, nbd: SocketAddr, certificates: &str) -> String {
    let directory = world.file(certificates);
    format!("nbds://{nbd}/{VOLUME}?tls-certificates={}", directory.display())
}

#[test]
fn clients_with_gnutls_use_a_volume_that_requires_tls() {
    promise(|world| {
        certificates(&world.file("pki"))?;
        let nbd = free_address()?;
        let client_ca = format!("client_ca = \"{}/ca-cert.pem\"", world.file("pki").display());
        let unit = unit_with_tls(world, nbd, &client_ca, "require_tls = true")?;
        unit.start()?;
        let plain = Endpoint::Tcp(nbd).uri(VOLUME);
        let refused = Tool::new("nbdinfo").args(["--size", &plain]).run()?.failure()?;
        ensure!(refused.output().contains("TLS"), "{}", refused.output());
        let listed = Tool::new("nbdinfo")
            .args(["--list", "--json", &Endpoint::Tcp(nbd).uri("")])
            .run()?;
        ensure!(!listed.stdout.contains(VOLUME), "{}", listed.stdout);

        let uri = tls_uri(world, nbd, "pki");
        let sample = world.file("sample.img");
        std::fs::write(&sample, Random::new(world.seed()).bytes(64 << 20))?;
        Tool::new("nbdcopy")
            .args(["--flush"])
            .path(&sample)
            .args([&uri])
            .ok()?;
        let credentials = format!(
            "tls-creds-x509,id=tls0,endpoint=client,dir={}",
            world.file("pki").display()
        );
        let image = format!(
            "driver=nbd,host=127.0.0.1,port={},export={VOLUME},tls-creds=tls0",
            nbd.port()
        );
        Tool::new("qemu-img")
            .args(["compare", "--object", &credentials, "--image-opts", &image])
            .args([format!("driver=raw,file.filename={}", sample.display())])
            .ok()?;

        // Another authority's client is nobody.
        certificates(&world.file("others"))?;
        std::fs::copy(world.file("pki/ca-cert.pem"), world.file("others/ca-cert.pem"))?;
        Tool::new("nbdinfo")
            .args(["--size", &tls_uri(world, nbd, "others")])
            .run()?
            .failure()?;
        Tool::new("nbdinfo").args(["--size", &uri]).ok()?;
        Ok(())
    });
}

#[test]
fn certificates_are_exchanged_while_the_unit_runs() {
    promise(|world| {
        certificates(&world.file("pki"))?;
        let nbd = free_address()?;
        let unit = unit_with_tls(world, nbd, "required = true", "")?;
        unit.start()?;
        let old = world.file("old");
        std::fs::create_dir_all(&old)?;
        for name in ["ca-cert.pem", "client-cert.pem", "client-key.pem"] {
            std::fs::copy(world.file("pki").join(name), old.join(name))?;
        }
        let size = |certificates: &str| {
            Tool::new("nbdinfo")
                .args(["--size", &tls_uri(world, nbd, certificates)])
                .run()
        };
        size("old")?.success()?;
        certificates(&world.file("pki"))?;
        unit.process()?.signal(rustix::process::Signal::HUP)?;
        wait_until("the new certificate", limits::START, || {
            let done = size("pki")?;
            Ok(Seen::when(done.code == 0, || done.output()))
        })?;
        size("old")?.failure()?;

        // What cannot be used is said, and what was in use stays.
        std::fs::write(world.file("pki/server-key.pem"), "no key")?;
        unit.process()?.signal(rustix::process::Signal::HUP)?;
        wait_until("the status to say it", limits::START, || {
            let text = unit.status()?.0.to_string();
            Ok(Seen::when(text.contains("server-key.pem"), || text))
        })?;
        size("pki")?.success()?;
        Ok(())
    });
}

#[test]
fn a_read_only_volume_refuses_changes_and_becomes_writable_live() {
    promise(|world| {
        let nbd = free_address()?;
        let volume = |read_only: bool| {
            format!(
                "[[volume]]\nname = \"{VOLUME}\"\nsize = \"64M\"\njournal_size = \"16M\"\nread_only = {read_only}\n"
            )
        };
        let unit = local_unit(world, "local", &world.file("local"), nbd, &volume(true))?;
        unit.start()?;
        let endpoint = Endpoint::Tcp(nbd);
        let text = Tool::new("nbdinfo")
            .args(["--json", &endpoint.uri(VOLUME)])
            .ok()?
            .stdout;
        ensure!(text.contains("\"is_read_only\": true"), "{text}");
        let mut client = NbdClient::connect(&endpoint, VOLUME)?;
        client.read(0, 4096)?;
        client.flush()?;
        ensure!(client.write(0, b"x").is_err() && client.trim(0, 512).is_err());
        local_unit(world, "local", &world.file("local"), nbd, &volume(false))?;
        unit.process()?.signal(rustix::process::Signal::HUP)?;
        wait_until("the volume to be writable", limits::START, || {
            Ok(Seen::when(client.write(0, b"x").is_ok(), || {
                "it is not".to_owned()
            }))
        })?;
        let mut client = NbdClient::connect(&endpoint, VOLUME)?;
        client.write(0, b"y")?;
        ensure!(client.read(0, 1)? == b"y");
        Ok(())
    });
}
