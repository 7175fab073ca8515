pub(crate) mod elf_file;
mod file;
mod text;
