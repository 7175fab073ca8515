//! Gives the module the name by which the C library looks for it.

fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libnss_quorate.so.2");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=QUORATE_NSS_CONFIG");
}
